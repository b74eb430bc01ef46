// The document as a function of what is known: `h` describes an element, `patch` makes the children of an element be
// as described. Elements that stay keep their focus, their selection and their place for a screen reader.

const SVG_TAGS = new Set(['svg', 'use', 'path', 'rect', 'circle', 'line', 'text', 'g', 'title']);

/**
 * Describes an element. Attributes that are null or false are left out. `on…` is a handler, `style` an object, `key`
 * the identity of the element among its siblings. Children are descriptions or text; null and false are left out.
 */
function h(tag, attributes, ...children) {
  const shown = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  return { tag, attributes: attributes ?? {}, children: shown };
}

/** Makes the children of `parent` be as described. */
function patch(parent, wanted) {
  const keys = new Set(wanted.map(keyOf));
  const known = new Map();
  for (const node of [...parent.childNodes]) {
    if (node.key === undefined) continue;
    // A node that is not wanted goes first: the others are then in order, and a node that moves would lose its focus.
    if (keys.has(node.key)) known.set(node.key, node);
    else node.remove();
  }
  let at = parent.firstChild;
  for (const want of wanted) {
    const key = keyOf(want);
    const candidate = key === undefined ? at : known.get(key);
    const node = candidate && candidate.key === key && isOfKind(candidate, want) ? candidate : create(want);
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
    update(node, want);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function keyOf(want) {
  return want.attributes?.key;
}

function isOfKind(node, want) {
  return want.tag ? node.localName === want.tag : node.nodeType === Node.TEXT_NODE;
}

/** A new node, as described, but for its attributes and children. */
function create(want) {
  if (!want.tag) return document.createTextNode('');
  const space = SVG_TAGS.has(want.tag) ? 'http://www.w3.org/2000/svg' : 'http://www.w3.org/1999/xhtml';
  const node = document.createElementNS(space, want.tag);
  node.key = keyOf(want);
  return node;
}

/** Makes a node be as described. */
function update(node, want) {
  if (!want.tag) {
    if (node.data !== String(want)) node.data = want;
    return;
  }
  const before = node.attributesShown ?? {};
  for (const name of Object.keys(before)) if (!(name in want.attributes)) setAttribute(node, name, null);
  for (const [name, value] of Object.entries(want.attributes)) {
    if (value !== before[name]) setAttribute(node, name, value);
  }
  node.attributesShown = want.attributes;
  patch(node, want.children);
}

function setAttribute(node, name, value) {
  if (name === 'key') return;
  if (name.startsWith('on')) node[name] = value;
  else if (name === 'style')
    for (const [property, text] of Object.entries(value ?? {})) node.style.setProperty(property, text);
  else if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else node.setAttribute(name, value === true ? '' : value);
}

/** A new element, as described, with all that is in it. */
function build(want) {
  const node = create(want);
  update(node, want);
  return node;
}
