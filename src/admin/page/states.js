// The words, shapes and formats that all views share.

/** The states of a member, the worst first. */
const STATES = ['down', 'drained', 'unknown', 'quiesced', 'up'];

/** What a state means, for tooltips and legends. */
const MEANING = {
  up: 'contact and weight',
  down: 'no contact',
  drained: 'contact, but weight 0',
  unknown: 'contact, but nothing confirms the weight',
  quiesced: 'taken out of service by someone',
};

/** The state that a member is shown with: what a person said counts before what checks found. */
function stateOf(member) {
  if (member.quiesced) return 'quiesced';
  if (!member.contact) return 'down';
  if (!member.confident) return 'unknown';
  return member.weight > 0 ? 'up' : 'drained';
}

/** A state or a grade as a coloured shape. Words beside it say the same, so a screen reader leaves it out. */
function shape(name) {
  return h(
    'svg',
    { class: `shape ${name}`, 'aria-hidden': 'true', viewBox: '0 0 16 16' },
    h('use', { href: `#shape-${name}` }),
  );
}

/** How many members are in each state. */
function tally(members) {
  const counts = { up: 0, down: 0, drained: 0, unknown: 0, quiesced: 0 };
  for (const member of members) counts[stateOf(member)] += 1;
  return counts;
}

/** How many members are in each state, by the row of a group. */
function countsOf({ up, down, drained, unknown, quiesced }) {
  return { up, down, drained, unknown, quiesced };
}

/** The counts as words: `3 down, 40 up`. */
function countsText(counts) {
  const parts = STATES.filter((state) => counts[state]).map((state) => `${number(counts[state])} ${state}`);
  return parts.length ? parts.join(', ') : 'no members';
}

/** The counts as chips, each with its shape. */
function chips(counts) {
  const shown = STATES.filter((state) => counts[state]);
  return h(
    'span',
    { class: `chips ${shown.length > 3 ? 'many' : ''}` },
    shown.map((state) =>
      h(
        'span',
        { class: 'chip', title: `${state}: ${MEANING[state]}` },
        shape(state),
        number(counts[state]),
        h('span', { class: 'word' }, ` ${state}`),
      ),
    ),
  );
}

/** A badge: a short word about a member, a group or a load balancer. */
function badge(text, title, grade) {
  return h('span', { class: `badge ${grade ?? ''}`, title }, text);
}

const NUMBERS = new Intl.NumberFormat('en', { maximumFractionDigits: 2 });

function number(value) {
  return NUMBERS.format(value);
}

function plural(count, one, many) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

/** `10.0.0.1:80`, `[2001:db8::5]:53 udp`, or the address alone for a whole system. */
function endpointName({ address, port, protocol }) {
  if (port === 0 && protocol === '0') return address;
  const host = address.includes(':') ? `[${address}]` : address;
  return `${host}:${port}${protocol === 'tcp' ? '' : ` ${protocol}`}`;
}

function endpointKey({ address, port, protocol }) {
  return `${address} ${port} ${protocol}`;
}

/** Time since `text`, in the largest unit: `12 s ago`. */
function ago(text) {
  const seconds = Math.max(0, (Date.now() - Date.parse(text)) / 1000);
  return seconds < 5 ? 'just now' : `${duration(seconds)} ago`;
}

/** Time until `text`: `in 5 min`. */
function until(text) {
  return `in ${duration(Math.max(0, (Date.parse(text) - Date.now()) / 1000))}`;
}

function duration(seconds) {
  if (seconds < 99) return `${Math.round(seconds)} s`;
  if (seconds < 99 * 60) return `${Math.round(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

/** The clock of this machine; with the date, if it is not today's. Takes text, or milliseconds since 1970. */
function clock(instant) {
  const time = new Date(instant);
  const two = (part) => String(part).padStart(2, '0');
  const hours = `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
  if (time.toDateString() === new Date().toDateString()) return hours;
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} ${hours}`;
}

/** A point in time: its age, with the exact time as a tooltip. */
function when(text) {
  return text ? h('time', { datetime: text, title: clock(text) }, ago(text)) : '–';
}

/** The address of a view: `link('member', {…})`. */
function link(view, query) {
  const text = new URLSearchParams(query ?? {}).toString();
  return `#/${view}${text ? `?${text}` : ''}`;
}

function groupLink(row) {
  return link('group', { lb: row.load_balancer.uid_hex, group: row.group });
}

function memberLink({ load_balancer, group, address, port, protocol }) {
  return link('member', { lb: load_balancer.uid_hex, group, address, port, protocol });
}

/** The head of a view of one thing: what it belongs to, its name, and what a person can do with it. */
function heading(trail, title, buttons) {
  return h(
    'div',
    { class: 'heading' },
    h('div', null, trail && h('p', { class: 'trail' }, trail), h('h1', null, title)),
    h('div', { class: 'buttons' }, buttons),
  );
}

/** The titles of a table's columns. */
function columnTitles(names, attributes) {
  return h(
    'thead',
    attributes ?? null,
    h(
      'tr',
      null,
      names.map((name) => h('th', { scope: 'col' }, name)),
    ),
  );
}

/** What a view shows whose subject does not exist. */
function notFound(text) {
  return [h('h1', null, 'Not found'), h('p', null, text), h('p', null, h('a', { href: link('') }, 'To the overview'))];
}
