// The first view: is everything well, and the farm as groups.

/** Members of a group that its strip asks for. */
const STRIP_MEMBERS = 300;

class Overview {
  constructor(query) {
    this.lb = query.get('lb');
    this.trouble = query.get('show') === 'trouble';
    this.list = new List('groups', { width: 430, height: () => 118 });
    this.strips = new Strips(this.list);
  }

  part = 'overview';
  title = 'Overview';

  readings() {
    return this.strips.readings();
  }

  onEvent(kind, value) {
    this.strips.onEvent(kind, value);
  }

  draw() {
    const found = findings();
    const grade = gradeOfAll(found);
    return [
      h('h1', { class: 'unseen' }, 'Overview'),
      h(
        'section',
        { class: `verdict ${grade ?? ''}`, 'aria-label': 'Is everything well' },
        h('p', { class: 'headline' }, grade && shape(grade), grade ? VERDICTS[grade] : 'Reading …'),
        h(
          'ul',
          { class: 'findings' },
          found.map(({ grade, text, href }) =>
            h(
              'li',
              { class: grade },
              shape(grade),
              h('span', { class: 'unseen' }, `${grade}: `),
              h('a', { href }, text),
            ),
          ),
        ),
      ),
      this.drawTiles(),
      this.drawWords(),
      this.drawGroups(),
    ];
  }

  drawTiles() {
    const totals = farm.totals.value;
    if (!totals) return null;
    const groups = [...farm.groups.rows.values()];
    const counts = groups.reduce((sum, group) => {
      for (const [state, count] of Object.entries(countsOf(group))) sum[state] = (sum[state] ?? 0) + count;
      return sum;
    }, {});
    const held = totals.load_balancers - totals.load_balancers_connected;
    const nearest = nearestLimit();
    const tile = (name, value, href, ...more) =>
      h(
        'a',
        { class: 'tile', href },
        h('span', { class: 'label' }, name),
        h('span', { class: 'value' }, value),
        h('span', { class: 'more' }, more),
      );
    return h(
      'section',
      { class: 'tiles', 'aria-label': 'How much there is' },
      tile('Members', number(totals.memberships), link('members'), share(counts), chips(counts)),
      tile(
        'Load balancers',
        number(totals.load_balancers),
        link('balancers'),
        `${number(totals.load_balancers_connected)} connected, ${number(held)} held`,
      ),
      tile(
        'Endpoints',
        number(totals.endpoints),
        link('members'),
        `${number(totals.watched)} watched, ${number(totals.answering)} of them answer`,
      ),
      nearest &&
        tile(
          'Nearest limit',
          `${Math.round((100 * nearest.used) / nearest.max)} %`,
          link('daemon'),
          meter(nearest),
          `${nearest.name}: ${number(nearest.used)} of ${number(nearest.max)}`,
        ),
    );
  }

  drawWords() {
    const words = farm.words.value ?? [];
    if (!words.length) return null;
    return h('section', { key: 'words', class: 'panel' }, h('h2', null, 'What operators said here'), wordTable(words));
  }

  drawGroups() {
    const all = [...farm.groups.rows.values()].filter((group) => !this.lb || group.load_balancer.uid_hex === this.lb);
    const troubled = all.filter(isInTrouble);
    const shown = (this.trouble ? troubled : all).sort(
      (a, b) => byName(a.group, b.group) || byName(a.load_balancer.uid, b.load_balancer.uid),
    );
    const query = this.lb ? { lb: this.lb } : {};
    const filter = (name, count, more, isOn) =>
      h(
        'a',
        { class: 'filter', href: link('', { ...query, ...more }), 'aria-current': isOn && 'true' },
        name,
        h('span', { class: 'quiet' }, number(count)),
      );
    const uid = this.lb && (all[0]?.load_balancer.uid ?? this.lb);
    return h(
      'section',
      { key: 'groups' },
      h(
        'div',
        { class: 'bar' },
        h('h2', null, this.lb ? `Groups of ${uid}` : 'Groups'),
        filter('all', all.length, {}, !this.trouble),
        filter('in trouble', troubled.length, { show: 'trouble' }, this.trouble),
        this.lb && h('a', { class: 'filter', href: link('') }, 'of every load balancer'),
      ),
      status(
        farm.groups,
        shown.length,
        this.trouble ? 'No group is in trouble.' : 'There are no groups. A load balancer registers them.',
      ),
      this.list.draw(shown, groupKey, (group, width, tabindex) => this.strips.cell(group, width, tabindex)),
    );
  }
}

/** What is to be said about a list beside its rows. */
function status(list, count, whenEmpty) {
  if (list.error) return h('p', { class: 'empty' }, list.error.message);
  if (!list.loaded) return h('p', { class: 'empty' }, 'Reading …');
  if (!list.whole)
    return h(
      'p',
      { class: 'empty' },
      `Only the first ${number(list.rows.size)} are read. A whole address in the search finds others.`,
    );
  return count === 0 && h('p', { class: 'empty' }, whenEmpty);
}

/** Names as people sort them: web2 before web10. */
const byName = new Intl.Collator('en', { numeric: true }).compare;

/** The strips of groups; each is read when it comes into view, and again when one of its members changes. */
class Strips {
  constructor(list) {
    this.list = list;
    this.known = new Map();
  }

  of(group) {
    const key = groupKey(group);
    let reading = this.known.get(key);
    if (!reading) {
      const query = { load_balancer_hex: group.load_balancer.uid_hex, group: group.group };
      reading = new Reading(() => this.read(query), {});
      this.known.set(key, reading);
    }
    return reading;
  }

  async read(query) {
    const members = [];
    await pages('members', 'members', query, STRIP_MEMBERS, (page) => members.push(...page));
    return { members, endpoints: new Set(members.map(endpointKey)) };
  }

  readings() {
    return this.list.shown().map((group) => this.of(group));
  }

  onEvent(kind, value) {
    if (kind === 'endpoint') {
      const key = endpointKey(value);
      const shown = new Set(this.list.shown().map(groupKey));
      for (const [group, reading] of this.known) {
        if (!reading.value?.endpoints.has(key)) continue;
        reading.stale = true;
        const row = farm.groups.rows.get(group);
        if (row && shown.has(group)) {
          farm.groups.touch(group, { load_balancer_hex: row.load_balancer.uid_hex, group: row.group });
        }
      }
    } else if (kind === 'group') {
      const reading = this.known.get(groupKey(value));
      if (reading) reading.stale = true;
    } else if (kind === 'reset' || kind === 'blind' || kind === 'words') {
      for (const reading of this.known.values()) reading.stale = true;
    }
  }

  /** A group, as a cell of a list. */
  cell(group, width, tabindex) {
    const members = this.of(group).value?.members;
    const grade = gradeOf(group);
    const stripWidth = width - 26; // inside the cell
    const drawn = members ? Math.min(members.length, barsIn(stripWidth)) : group.members;
    return [
      h(
        'div',
        { class: 'line' },
        shape(grade),
        h('a', { class: 'title', href: groupLink(group), tabindex }, group.group),
        h('span', { class: 'quiet cut' }, group.load_balancer.uid),
        h(
          'span',
          { class: 'end' },
          drawn < group.members && badge(`bars: the first ${number(drawn)}`, 'Open the group for all'),
          group.in_doubt && badge('in doubt', 'Too many members failed at once: failures do not count now', 'warn'),
          badge(group.policy, 'How the weights are made'),
        ),
      ),
      members ? strip(members, stripWidth, 44, group.members) : h('div', { class: 'strip-room' }),
      h(
        'div',
        { class: 'line' },
        group.members ? chips(countsOf(group)) : h('span', { class: 'quiet' }, 'no members'),
        h('span', { class: 'end quiet' }, `weight ${number(group.weight)}`),
      ),
    ];
  }
}

/** Parts of a whole as one bar; the chips beside it say the same in words. */
function share(counts) {
  const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
  if (!all) return null;
  return h(
    'span',
    { class: 'share', 'aria-hidden': 'true' },
    STATES.filter((state) => counts[state]).map((state) =>
      h('span', { key: state, class: state, style: { 'flex-grow': counts[state] } }),
    ),
  );
}
