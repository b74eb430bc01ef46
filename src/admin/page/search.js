// The search over groups, load balancers and members.

/** What a search finds: groups and load balancers by a part of their name, members by any of their names. */
class Search {
  constructor(query, before) {
    this.text = query.get('text') ?? '';
    const address = addressOf(this.text);
    // The daemon finds a whole address among all members; the page looks for parts among those that it has read, and
    // reads them once, however many letters are typed.
    const known = before instanceof Search && !address && !before.address ? before : null;
    this.address = address;
    this.members = known?.members ?? new MemberRows(address ?? {});
    this.members.text = address ? '' : this.text;
    this.balancers = known?.balancers ?? balancerList();
    this.title = `Search: ${this.text}`;
  }

  part = 'search';

  readings() {
    return [...this.members.readings(), ...this.balancers.readings];
  }

  onEvent(kind, value) {
    this.members.onEvent(kind, value);
  }

  draw() {
    const text = this.text.toLowerCase();
    const groups = [...farm.groups.rows.values()].filter((row) => row.group.toLowerCase().includes(text));
    const balancers = [...this.balancers.rows.values()].filter((row) => row.uid.toLowerCase().includes(text));
    const links = (name, rows, describe) =>
      rows.length > 0 &&
      h(
        'section',
        { class: 'panel' },
        h('h2', null, name, h('span', { class: 'count' }, number(rows.length))),
        h(
          'ul',
          { class: 'found' },
          rows.slice(0, FOUND_MAX).map((row) => h('li', null, describe(row))),
        ),
        rows.length > FOUND_MAX && h('p', { class: 'quiet' }, `and ${number(rows.length - FOUND_MAX)} more`),
      );
    return [
      h('h1', null, `“${this.text}”`),
      links('Groups', groups, (row) => [
        h('a', { href: groupLink(row) }, row.group),
        h('span', { class: 'quiet' }, ` ${row.load_balancer.uid}`),
      ]),
      links('Load balancers', balancers, (row) => h('a', { href: link('', { lb: row.uid_hex }) }, row.uid)),
      h('section', null, this.members.draw('Members')),
    ];
  }
}

/** The most groups and load balancers that a search names. */
const FOUND_MAX = 24;

/** A whole address, with or without a port, as a query; null if the text is something else. */
function addressOf(text) {
  const forms = /^(?:\[([^\]]+)\](?::(\d+))?|([0-9a-f.]*:[0-9a-f.]*:[0-9a-f.:]*)|(\d+(?:\.\d+){3})(?::(\d+))?)$/i;
  const found = forms.exec(text);
  if (!found) return null;
  const address = found[1] ?? found[3] ?? found[4];
  const port = found[2] ?? found[5];
  const isAddress = address.includes(':')
    ? URL.canParse(`http://[${address}]/`)
    : address.split('.').every((part) => Number(part) <= 255);
  if (!isAddress || Number(port ?? 0) > 65535) return null;
  return port === undefined ? { address } : { address, port };
}
