// Members as a list: of a group, of all groups, or those that a search finds.

/** Orders of the list. */
const ORDERS = {
  state: ['worst first', (a, b) => STATES.indexOf(stateOf(a)) - STATES.indexOf(stateOf(b)) || a.weight - b.weight],
  address: ['by address', (a, b) => byName(a.address, b.address) || a.port - b.port],
  weight: ['by weight', (a, b) => b.weight - a.weight],
};

/** A list of members with its filters. `query` is what the daemon is asked for. */
class MemberRows {
  constructor(query, { name = 'members', showsGroup = true } = {}) {
    this.rows = memberList(query);
    this.showsGroup = showsGroup;
    this.list = new List(name, { width: 520, height: (room) => (room < 700 ? 76 : 52) });
    this.order = 'state';
    this.text = '';
    this.state = null;
  }

  readings() {
    return this.rows.readings;
  }

  onEvent(kind, value) {
    const { query } = this.rows;
    if (kind === 'endpoint') {
      const { address, port, protocol } = value;
      // New members come with an event of their group. But any member may come into the state that is asked for.
      if (query.state || this.rows.has(endpointKey(value)))
        this.rows.touch(endpointKey(value), { address, port, protocol });
    } else if (kind === 'group') {
      const { load_balancer, group } = value;
      const isOfGroup =
        (query.group ?? group) === group &&
        (query.load_balancer_hex ?? load_balancer.uid_hex) === load_balancer.uid_hex;
      if (isOfGroup) this.rows.all.stale = true;
    } else if (kind === 'reset' || kind === 'blind' || kind === 'words') {
      this.rows.all.stale = true;
    }
  }

  /** The rows in order; worked out again only when something has changed. */
  items() {
    const { rows, state, order, text } = this;
    const made = [rows.rows, rows.version, state, order, text];
    if (!this.made || made.some((part, at) => part !== this.made[at])) {
      const words = text.toLowerCase().split(/\s+/).filter(Boolean);
      const found = [...rows.rows.values()].filter((row) => words.every((word) => searchText(row).includes(word)));
      this.counts = tally(found);
      this.found = found.length;
      this.shownItems = found.filter((row) => !state || stateOf(row) === state).sort(ORDERS[order][1]);
      this.made = made;
    }
    return this.shownItems;
  }

  /** The filters and the list. */
  draw(title, ...more) {
    const items = this.items();
    const top = items.reduce((most, row) => Math.max(most, row.weight), 1);
    const filter = (state, name, count) =>
      h(
        'button',
        { class: 'filter', 'aria-pressed': String(this.state === state), onclick: () => this.filterBy(state) },
        state && shape(state),
        h('span', { class: state ? 'word' : '' }, `${name} `),
        h('span', { class: 'quiet' }, number(count)),
      );
    return [
      h(
        'div',
        { class: 'bar' },
        h('h2', null, title),
        filter(null, 'all', this.found),
        STATES.filter((state) => this.counts[state] || this.state === state).map((state) =>
          filter(state, state, this.counts[state]),
        ),
        h(
          'label',
          { class: 'end' },
          h('span', { class: 'unseen' }, 'Order'),
          h(
            'select',
            { onchange: (event) => this.orderBy(event.target.value) },
            Object.entries(ORDERS).map(([value, [name]]) =>
              h('option', { value, selected: value === this.order }, name),
            ),
          ),
        ),
        more,
      ),
      status(this.rows, items.length, 'There are no such members.'),
      this.list.draw(items, this.rows.keyOf, (row, width, tabindex) => this.cell(row, top, tabindex)),
    ];
  }

  cell(row, top, tabindex) {
    const state = stateOf(row);
    return [
      shape(state),
      h(
        'div',
        { class: 'who' },
        h('a', { class: 'title', href: memberLink(row), tabindex }, endpointName(row)),
        h(
          'span',
          { class: 'quiet cut' },
          [row.label, this.showsGroup && `${row.group} of ${row.load_balancer.uid}`].filter(Boolean).join(' · '),
        ),
      ),
      h(
        'span',
        { class: 'weight' },
        h(
          'span',
          { class: 'track', 'aria-hidden': 'true' },
          h('span', { class: state, style: { width: `${(100 * row.weight) / top}%` } }),
        ),
        h('span', { class: 'figure' }, h('span', { class: 'unseen' }, 'weight '), number(row.weight)),
      ),
      h(
        'span',
        { class: 'reason quiet', title: row.reason },
        // Many reasons begin with the state.
        !row.reason.startsWith(state) && [h('span', { class: `state ${state}` }, state), ' '],
        row.reason,
      ),
    ];
  }

  filterBy(state) {
    this.state = state;
    redraw();
  }

  orderBy(order) {
    this.order = order;
    redraw();
  }
}

function searchText(row) {
  return `${row.address} ${endpointName(row)} ${row.label} ${row.group} ${row.load_balancer.uid}`.toLowerCase();
}

class Members {
  constructor(query) {
    const state = query.get('state');
    // The daemon knows all members, the page only the first: so the daemon looks for a state that is asked for by name.
    this.members = new MemberRows(STATES.includes(state) ? { state } : {});
    this.name = STATES.includes(state) ? `Members: ${state}` : 'Members';
    this.isFiltered = STATES.includes(state);
  }

  part = 'members';
  title = 'Members';

  readings() {
    return this.members.readings();
  }

  onEvent(kind, value) {
    this.members.onEvent(kind, value);
  }

  draw() {
    return [
      h('h1', { class: 'unseen' }, 'Members'),
      this.members.draw(
        this.name,
        this.isFiltered && h('a', { class: 'filter', href: link('members') }, 'every state'),
      ),
    ];
  }
}
