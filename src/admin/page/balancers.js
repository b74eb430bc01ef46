// Load balancers with their sessions.

class Balancers {
  constructor(query) {
    this.only = ['connected', 'held'].includes(query.get('state')) ? query.get('state') : null;
    this.rows = balancerList();
    this.list = new List('load balancers', { width: 460, height: () => 98 });
  }

  part = 'balancers';
  title = 'Load balancers';

  readings() {
    return this.rows.readings;
  }

  onEvent(kind, value) {
    if (kind === 'load_balancer') this.rows.touch(value.uid_hex, { load_balancer_hex: value.uid_hex });
    else if (kind === 'group')
      this.rows.touch(value.load_balancer.uid_hex, { load_balancer_hex: value.load_balancer.uid_hex });
    else if (kind === 'reset') this.rows.all.stale = true;
  }

  draw() {
    const all = [...this.rows.rows.values()];
    const held = all.filter((row) => !row.connected);
    const shown = (this.only ? all.filter((row) => row.connected === (this.only === 'connected')) : all).sort((a, b) =>
      byName(a.uid, b.uid),
    );
    const filter = (name, count, query, isOn) =>
      h(
        'a',
        { class: 'filter', href: link('balancers', query), 'aria-current': isOn && 'true' },
        name,
        h('span', { class: 'quiet' }, number(count)),
      );
    return [
      h('h1', { class: 'unseen' }, 'Load balancers'),
      h(
        'div',
        { class: 'bar' },
        h('h2', null, 'Load balancers'),
        filter('all', all.length, {}, !this.only),
        filter('connected', all.length - held.length, { state: 'connected' }, this.only === 'connected'),
        filter('held', held.length, { state: 'held' }, this.only === 'held'),
      ),
      status(this.rows, shown.length, 'There are none.'),
      this.list.draw(
        shown,
        (row) => row.uid_hex,
        (row, width, tabindex) => this.cell(row, tabindex),
      ),
    ];
  }

  cell(row, tabindex) {
    const session = row.connected
      ? [
          'connected ',
          when(row.bound_at),
          row.peer && ` from ${row.peer}`,
          row.certificate && `, certificate ${row.certificate}`,
        ]
      : ['not connected; ', row.held_until ? `forgotten ${until(row.held_until)}` : 'held'];
    const pushes = [
      row.last_push_at ? ['last push ', when(row.last_push_at)] : 'no push yet',
      row.bytes_waiting > 0 && `, ${number(row.bytes_waiting)} bytes wait`,
      row.push_waits && ', a push waits',
    ];
    return [
      h(
        'div',
        { class: 'line' },
        shape(row.connected ? 'up' : 'held'),
        h(
          'a',
          { class: 'title', href: link('', { lb: row.uid_hex }), tabindex, title: `in bytes: ${row.uid_hex}` },
          row.uid,
        ),
        h(
          'span',
          { class: 'end' },
          row.push && badge('push', 'It is told of changes without asking'),
          row.trust && badge('trust', 'Its members may speak for themselves'),
          row.no_change && badge('only changes', 'A push leaves out members that have not changed'),
          badge(`health ${row.health}`, 'As the load balancer states it, 0 to 255'),
        ),
      ),
      h('div', { class: 'line quiet' }, h('span', { class: 'cut' }, session)),
      h(
        'div',
        { class: 'line' },
        h(
          'span',
          { class: 'cut' },
          `${plural(row.groups, 'group', 'groups')}, ${plural(row.members, 'member', 'members')}; `,
          h('span', { class: 'quiet' }, row.push && pushes),
        ),
        h('span', { class: 'end' }, this.button(row, tabindex)),
      ),
    ];
  }

  button(row, tabindex) {
    const scopes = [['', { load_balancer_hex: row.uid_hex }]];
    const [label, options] = row.connected
      ? [
          'Drop …',
          {
            title: `Drop ${row.uid}`,
            path: 'load-balancers/drop',
            action: 'Drop',
            text: 'Its connection is closed. It is held for a while, and may connect again.',
          },
        ]
      : [
          'Forget …',
          {
            title: `Forget ${row.uid}`,
            path: 'load-balancers/forget',
            action: 'Forget',
            text: 'Its groups and their members are forgotten now, before the hold time ends.',
          },
        ];
    return h(
      'button',
      {
        class: 'small',
        tabindex,
        'aria-label': `${label} ${row.uid}`,
        onclick: () => askToWrite({ ...options, scopes, isGrave: true }),
      },
      label,
    );
  }
}
