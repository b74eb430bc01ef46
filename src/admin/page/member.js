// One member: what its weight is, why, what happened to it, and what a person can do.

class MemberView {
  constructor(query) {
    const [lb, group, address, port, protocol] = ['lb', 'group', 'address', 'port', 'protocol'].map(
      (name) => query.get(name) ?? '',
    );
    this.query = { load_balancer_hex: lb, group, address, port, protocol };
    this.reading = new Reading(() => get('member', this.query), { every: 5000, gap: 500 });
    this.name = endpointName({ address, port: Number(port), protocol });
    this.title = this.name;
  }

  part = 'members';

  readings() {
    return [this.reading];
  }

  onEvent(kind, value) {
    const { load_balancer_hex, group, address, port, protocol } = this.query;
    const isMine =
      kind === 'endpoint'
        ? endpointKey(value) === `${address} ${port} ${protocol}`
        : kind === 'group'
          ? value.group === group && value.load_balancer.uid_hex === load_balancer_hex
          : ['words', 'blind', 'reset'].includes(kind);
    if (isMine) this.reading.stale = true;
  }

  draw() {
    const member = this.reading.value;
    if (this.reading.error?.status === 404)
      return notFound(`${this.name} is no member of the group ${this.query.group}.`);
    if (!member)
      return [h('h1', null, this.name), h('p', { class: 'empty' }, this.reading.error?.message ?? 'Reading …')];
    const state = stateOf(member);
    return [
      heading(
        [
          'Member of ',
          h('a', { href: groupLink(member) }, member.group),
          ' of ',
          h('a', { href: link('', { lb: member.load_balancer.uid_hex }) }, member.load_balancer.uid),
        ],
        [shape(state), this.name, member.label && h('span', { class: 'label' }, member.label)],
        this.buttons(member),
      ),
      h(
        'div',
        { class: 'columns' },
        h('div', null, this.drawNow(member, state), this.drawWhy(member.why), this.drawChecks(member.why)),
        h(
          'div',
          null,
          this.drawHistory(member),
          member.words.length > 0 &&
            h('section', { class: 'panel' }, h('h2', null, 'What operators said here'), wordTable(member.words)),
        ),
      ),
    ];
  }

  drawNow(member, state) {
    const flag = (name, value) => h('div', null, h('dt', null, name), h('dd', null, value));
    const by = (people) =>
      people
        .map(
          (who) =>
            ({ member: 'itself, or its load balancer', file: 'the members file', operator: 'an operator here' })[who],
        )
        .join(', ');
    return h(
      'section',
      { class: 'panel now', 'aria-label': 'Now' },
      h(
        'div',
        { class: `big ${state}` },
        h('span', { class: 'figure' }, number(member.weight)),
        h('span', { class: 'state' }, state),
      ),
      h('p', { class: 'because' }, member.reason),
      h(
        'dl',
        null,
        flag('contact', member.contact ? 'yes' : 'no'),
        flag('confident', member.confident ? 'yes' : 'no'),
        flag('quiesced', member.quiesced ? `by ${by(member.quiesced_by)}` : 'no'),
        member.fixed_by && flag('weight fixed', `by ${by([member.fixed_by])}`),
        flag('checks say', member.standing),
        flag('policy', member.policy),
        flag('state of SASP', `0x${member.state.toString(16).toUpperCase().padStart(2, '0')}`),
        flag('registered by', member.registered_by_load_balancer ? 'its load balancer' : 'itself'),
        flag('changed', when(member.changed_at)),
      ),
      member.in_doubt &&
        h(
          'p',
          { class: 'notice' },
          shape('warn'),
          'The group is in doubt: too many of its members failed at once, so failures do not count now.',
        ),
      member.blind &&
        h(
          'p',
          { class: 'notice' },
          shape('warn'),
          'The daemon is blind, or recovers, where this member is: failures do not count now.',
        ),
    );
  }

  drawWhy(why) {
    const factors = [
      ['capacity', why.capacity],
      ['availability', why.availability],
      ['health', why.health],
      ['ramp', why.ramp],
      ['quiesce', why.quiesce],
    ].filter(([, factor]) => factor);
    const tile = (name, factor) =>
      h(
        'li',
        { key: name, class: 'factor' },
        h('span', { class: 'label' }, name),
        h('span', { class: 'value' }, number(factor.value)),
        h('span', { class: 'source' }, factor.source, factor.at && [', ', when(factor.at)]),
      );
    return h(
      'section',
      { class: 'panel' },
      h('h2', null, 'Why this weight'),
      h('p', { class: 'formula' }, why.text),
      h(
        'ul',
        { class: 'factors', 'aria-label': 'Factors of the weight' },
        factors.map(([name, factor]) => tile(name, factor)),
        why.rate && tile('rate a second', why.rate),
      ),
      why.last_failure &&
        h(
          'p',
          { class: 'notice failure' },
          shape('down'),
          h(
            'span',
            null,
            h('strong', null, `Last failure of a check (${why.last_failure.check}), `, when(why.last_failure.at), ': '),
            why.last_failure.text,
          ),
        ),
    );
  }

  drawChecks(why) {
    if (!why.checks.length) return null;
    const row = (check) =>
      h(
        'tr',
        { key: `${check.check} ${check.port}` },
        h('td', null, shape({ passing: 'up', failing: 'down', new: 'unknown' }[check.state]), ` ${check.check}`),
        h(
          'td',
          null,
          check.state,
          check.in_a_row > 0 && h('span', { class: 'quiet' }, `, ${check.in_a_row} in a row against`),
        ),
        h(
          'td',
          null,
          `every ${number(check.interval_seconds)} s, ${number(check.timeout_seconds)} s to answer`,
          h('br'),
          h('span', { class: 'quiet' }, `up after ${check.rise}, down after ${check.fall}`),
        ),
      );
    return h(
      'section',
      { class: 'panel' },
      h('h2', null, 'Checks'),
      h(
        'table',
        null,
        columnTitles(['Check', 'Result', 'Settings']),
        h('tbody', null, why.checks.map(row)),
      ),
    );
  }

  drawHistory(member) {
    const changes = member.history;
    const drawing = chart(changes, member.policy);
    const row = (change, at) =>
      h(
        'tr',
        { key: `${change.at} ${changes.length - at}` },
        h('td', null, h('time', { datetime: change.at, title: ago(change.at) }, clock(change.at))),
        h(
          'td',
          { class: 'kind' },
          change.to && STANDING_SHAPES[change.to] && shape(STANDING_SHAPES[change.to]),
          ` ${change.kind}`,
        ),
        h('td', null, change.text),
      );
    return h(
      'section',
      { class: 'panel' },
      h('h2', null, 'History'),
      drawing,
      drawing &&
        h('p', { class: 'quiet' }, 'The weight that settings and checks give, and below it what the checks found.'),
      changes.length === 0
        ? h('p', { class: 'quiet' }, 'Nothing has changed since the daemon knows this endpoint.')
        : h(
            'div',
            { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Changes' },
            h(
              'table',
              null,
              columnTitles(['Time', 'What', 'Words']),
              h('tbody', null, changes.map(row)),
            ),
          ),
    );
  }

  buttons(member) {
    const { address, port, protocol } = member;
    const endpoint = { address, port, protocol };
    const here = { ...endpoint, group: member.group, load_balancer_hex: member.load_balancer.uid_hex };
    const scopes = [
      ['this member of this group', here],
      [`${this.name} in every group`, endpoint],
      [`all of ${address} in every group`, { address }],
    ];
    const ask = (label, options) =>
      h('button', { class: options.isGrave ? 'grave' : '', onclick: () => askToWrite(options) }, label);
    const byOperator = member.quiesced_by.includes('operator');
    return [
      !byOperator &&
        ask('Quiesce …', {
          title: `Quiesce ${this.name}`,
          path: 'members/quiesce',
          action: 'Quiesce',
          isGrave: true,
          scopes,
          text: 'It gets weight 0 and finishes the work that it has.',
        }),
      byOperator &&
        ask('Resume …', {
          title: `Resume ${this.name}`,
          path: 'members/resume',
          action: 'Resume',
          scopes,
          text: 'It gets work again, unless someone else keeps it out.',
        }),
      ask('Fix weight …', {
        title: `Fix the weight of ${this.name}`,
        path: 'members/fix-weight',
        action: 'Fix',
        weight: { value: member.weight },
        scopes: scopes.slice(1),
        text: 'It gets this weight in every group, and its checks end.',
      }),
      member.fixed_by === 'operator' &&
        ask('Release weight …', {
          title: `Release the weight of ${this.name}`,
          path: 'members/release-weight',
          action: 'Release',
          scopes: scopes.slice(1),
          text: 'Checks and agents decide about its weight again.',
        }),
    ];
  }
}

const STANDING_SHAPES = { up: 'up', down: 'down', drained: 'drained', unknown: 'unknown' };

/** The chart of a history, in the units of its own box. */
const CHART = { width: 640, height: 150, left: 44, right: 10, top: 10, bottom: 40 };

/** The weight over time as a line of steps, and under it what the checks said, as a band. */
function chart(history, policy) {
  const { width, height, left, right, top, bottom } = CHART;
  const value = (change) => change.verdicts?.[policy]?.weight ?? change.verdicts?.[policy]?.rate ?? null;
  const steps = history
    .filter((change) => value(change) !== null)
    .map((change) => ({ at: Date.parse(change.at), value: value(change) }))
    .reverse();
  if (steps.length < 2) return null;
  const [begin, end] = [steps[0].at, Math.max(Date.now(), steps.at(-1).at + 1)];
  const most = Math.max(1, ...steps.map((step) => step.value));
  const x = (at) => f(left + ((at - begin) / (end - begin)) * (width - left - right));
  const y = (weight) => f(height - bottom - (weight / most) * (height - top - bottom));
  const line =
    steps
      .map((step, at) => (at === 0 ? `M${x(step.at)} ${y(step.value)}` : `H${x(step.at)}V${y(step.value)}`))
      .join('') + `H${x(end)}`;
  const area = `${line}V${y(0)}H${x(begin)}Z`;
  const standings = history.filter((change) => change.to).reverse();
  const bands = standings.map((change, at) => {
    const from = Math.max(begin, Date.parse(change.at));
    const to = at + 1 < standings.length ? Date.parse(standings[at + 1].at) : end;
    const state = STANDING_SHAPES[change.to] ?? 'unknown';
    return h(
      'rect',
      { class: `band ${state}`, x: x(from), y: height - bottom + 8, width: Math.max(1, x(to) - x(from)), height: 7 },
      h('title', null, `${change.to} from ${clock(change.at)}`),
    );
  });
  const values = steps.map((step) => step.value);
  const range = `between ${number(Math.min(...values))} and ${number(most)}, now ${number(values.at(-1))}`;
  const label = `Weight since ${clock(begin)}: ${range}`;
  return h(
    'svg',
    { class: 'chart', viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label },
    [0, most / 2, most].map((weight) =>
      h(
        'g',
        { key: weight },
        h('line', { class: 'grid', x1: left, x2: width - right, y1: y(weight), y2: y(weight) }),
        h('text', { x: left - 6, y: y(weight) + 4, class: 'right' }, number(weight)),
      ),
    ),
    h('path', { class: 'area', d: area }),
    h('path', { class: 'step', d: line }),
    bands,
    h('text', { x: left, y: height - 8 }, clock(begin)),
    h('text', { x: width - right, y: height - 8, class: 'right' }, 'now'),
  );
}
