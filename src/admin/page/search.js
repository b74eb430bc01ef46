// The search over groups, load balancers and members.

/** What a search finds: groups and load balancers by a part of their name, members by any of their names. */
class Search {
  constructor(query) {
    this.text = query.get('text') ?? '';
    const address = /^\[?([0-9a-f.:]*?)\]?(?::(\d{1,5}))?$/i.exec(this.text);
    // The daemon finds a whole address among all members; the page looks for parts among those that it has read.
    const isWhole =
      address && (/^(\d{1,3}\.){3}\d{1,3}$/.test(address[1]) || /^\[?[0-9a-f:]+:[0-9a-f:]+\]?$/i.test(this.text));
    const query4 =
      isWhole && address[1].includes('.') ? { address: address[1], ...(address[2] ? { port: address[2] } : {}) } : null;
    const asked = query4 ?? (isWhole ? { address: this.text.replace(/[[\]]/g, '') } : {});
    this.members = new MemberRows(asked);
    if (!isWhole) this.members.text = this.text;
    this.balancers = balancerList();
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
