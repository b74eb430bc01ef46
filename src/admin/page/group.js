// One group: its bars, its members, and what a person can do with all of them.

/** One group. */
class GroupView {
  constructor(query) {
    const [lb, group] = [query.get('lb') ?? '', query.get('group') ?? ''];
    this.key = `${lb} ${group}`;
    this.group = group;
    this.lb = lb;
    this.members = new MemberRows({ load_balancer_hex: lb, group }, { showsGroup: false });
    this.title = `Group ${group}`;
  }

  part = 'overview';

  readings() {
    return this.members.readings();
  }

  onEvent(kind, value) {
    this.members.onEvent(kind, value);
    if (kind === 'endpoint' && this.members.rows.has(endpointKey(value))) {
      farm.groups.touch(this.key, { load_balancer_hex: this.lb, group: this.group });
    }
  }

  draw() {
    const row = farm.groups.rows.get(this.key);
    const members = [...this.members.rows.rows.values()];
    const uid = row?.load_balancer.uid ?? members[0]?.load_balancer.uid ?? this.lb;
    const width = roomOfMain() - 34; // inside the panel
    const inOrder = this.members.items();
    const step = Math.ceil(inOrder.length / barsIn(width));
    if (farm.groups.loaded && farm.groups.whole && !row)
      return notFound(`There is no group ${this.group} of this load balancer.`);
    return [
      heading(
        [h('a', { href: link('') }, 'Groups'), ' of ', h('a', { href: link('', { lb: this.lb }) }, uid)],
        this.group,
        [this.button('Quiesce', 'members/quiesce'), this.button('Resume', 'members/resume')],
      ),
      row &&
        h(
          'section',
          { class: 'panel', 'aria-label': 'The group' },
          h(
            'div',
            { class: 'line wrap' },
            chips(countsOf(row)),
            h('span', { class: 'quiet' }, `weight ${number(row.weight)} in all`),
            badge(row.policy, 'How the weights are made'),
            row.scaled && badge('scaled', 'Rates of requests are turned into weights'),
            row.shared_by > 1 &&
              badge(
                `the same in ${number(row.shared_by)} groups`,
                'Groups of other load balancers list the same members',
              ),
            row.in_doubt && badge('in doubt', 'Too many members failed at once: failures do not count now', 'warn'),
          ),
          strip(everyNth(inOrder, step), width, 72, row.members),
          step > 1 && h('p', { class: 'quiet' }, `A bar for one of ${number(step)} members, in the order below.`),
        ),
      h('section', null, this.members.draw('Members')),
    ];
  }

  button(action, path) {
    const isQuiesce = action === 'Quiesce';
    return h(
      'button',
      {
        class: isQuiesce ? 'grave' : '',
        onclick: () =>
          askToWrite({
            title: `${action} the group ${this.group}`,
            path,
            action,
            isGrave: isQuiesce,
            text: isQuiesce
              ? 'All its members get weight 0 and finish the work that they have.'
              : 'Its members get work again, unless someone else keeps them out.',
            scopes: [
              ['this group of this load balancer', { group: this.group, load_balancer_hex: this.lb }],
              [`groups named ${this.group} of every load balancer`, { group: this.group }],
            ],
          }),
      },
      `${action} group …`,
    );
  }
}

/** One of so many items, in order: the form of a distribution stays. */
function everyNth(items, step) {
  return items.filter((_, at) => at % step === 0);
}
