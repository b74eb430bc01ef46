// A list of any length: only the cells near the window are in the document.

/** Cells beyond each edge of the window that are drawn too, in heights of the window. */
const MARGIN = 0.5;

/** The gap between two cells, as in style.css. */
const CELL_GAP = 10;

/** The width inside the main part of the page, in px. */
function roomOfMain() {
  const main = document.getElementById('main');
  return main.clientWidth - 2 * parseFloat(getComputedStyle(main).paddingLeft);
}

/** How much larger the text is than on a usual screen. */
function textScale() {
  return parseFloat(getComputedStyle(document.body).fontSize) / 14;
}

/**
 * The cells of one list, in as many columns as have room, each `height` high and at least `width` wide (in px). One
 * cell at a time is a stop of the Tab key; arrows, Page Up, Page Down, Home and End go to others.
 */
class List {
  constructor(name, { height, width }) {
    Object.assign(this, { name, height, width, current: 0, focusNext: false, items: [], columns: 1 });
  }

  /** Describes the list. `cell(item, cellWidth, tabindex)` gives the children of a cell; `keyOf(item)` its identity. */
  draw(items, keyOf, cell) {
    this.items = items;
    this.current = Math.max(0, Math.min(this.current, items.length - 1));
    const room = roomOfMain() + CELL_GAP; // the gap behind the last cell of a row is outside
    const height = Math.round(this.height(room) * textScale());
    this.columns = Math.max(1, Math.floor(room / (this.width * textScale())));
    this.rowHeight = height;
    const cellWidth = Math.floor(room / this.columns);
    const [first, end] = this.visible();
    const places = new Set(Array.from({ length: end - first }, (_, offset) => first + offset));
    // The cell that has the focus stays in the document wherever the window is.
    if (items.length && this.hasFocus()) places.add(this.current);
    const cells = [...places]
      .sort((a, b) => a - b)
      .map((at) => {
        const style = {
          width: `${cellWidth}px`,
          height: `${height}px`,
          transform: `translate(${(at % this.columns) * cellWidth}px, ${Math.floor(at / this.columns) * height}px)`,
        };
        const attributes = {
          key: keyOf(items[at]),
          class: 'cell',
          style,
          'data-at': at,
          'aria-posinset': at + 1,
          'aria-setsize': items.length,
        };
        return h('li', attributes, cell(items[at], cellWidth, at === this.current ? 0 : -1));
      });
    const style = { height: `${Math.ceil(items.length / this.columns) * height}px` };
    return h(
      'ul',
      {
        key: this.name,
        id: `list-${this.name}`,
        class: `list ${this.name}`,
        style,
        role: 'list',
        'aria-label': this.name,
        onkeydown: (event) => this.onKey(event),
        onfocusin: (event) => this.onFocus(event),
      },
      cells,
    );
  }

  /** The places of the first item that is drawn, and of the first one after it that is not. */
  visible() {
    const top = this.element()?.getBoundingClientRect().top ?? 0;
    const row = (y) => Math.floor((y - top) / this.rowHeight);
    const rows = Math.ceil(this.items.length / this.columns);
    const first = Math.max(0, Math.min(row(-MARGIN * innerHeight), rows));
    const end = Math.max(first, Math.min(row((1 + MARGIN) * innerHeight) + 1, rows));
    return [first * this.columns, Math.min(end * this.columns, this.items.length)];
  }

  /** The items that are drawn. */
  shown() {
    return this.rowHeight ? this.items.slice(...this.visible()) : [];
  }

  element() {
    return document.getElementById(`list-${this.name}`);
  }

  hasFocus() {
    return this.element()?.contains(document.activeElement) ?? false;
  }

  onFocus(event) {
    const at = Number(event.target.closest('[data-at]')?.dataset.at);
    if (at === this.current || Number.isNaN(at)) return;
    this.current = at;
    redraw();
  }

  onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const page = Math.max(1, Math.floor(innerHeight / this.rowHeight) - 2) * this.columns;
    const last = this.items.length - 1;
    const steps = {
      ArrowDown: this.columns,
      ArrowUp: -this.columns,
      ArrowRight: 1,
      ArrowLeft: -1,
      PageDown: page,
      PageUp: -page,
      Home: -last,
      End: last,
    };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.current = Math.max(0, Math.min(this.current + steps[event.key], last));
    this.bringIntoView();
    redrawNow();
    this.element().querySelector(`[data-at="${this.current}"] a`)?.focus({ preventScroll: true });
  }

  /** Scrolls the window as little as shows the current cell. */
  bringIntoView() {
    const top = this.element().getBoundingClientRect().top + Math.floor(this.current / this.columns) * this.rowHeight;
    const head = document.querySelector('header').offsetHeight + 8;
    if (top < head) scrollBy({ top: top - head, behavior: 'instant' });
    const below = top + this.rowHeight + 8 - innerHeight;
    if (below > 0) scrollBy({ top: below, behavior: 'instant' });
  }
}
