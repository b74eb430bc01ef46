// What is not well, from the totals, the groups, the limits and the settings.

/** A limit is near when this part of it is used. */
const LIMIT_NEAR = 0.8;
const LIMIT_REACHED = 0.95;

/** All that is not well, the worst first: `{ grade, text, href }`; grades are `bad`, `warn` and `note`. */
function findings() {
  const found = [];
  const add = (grade, text, href) => found.push({ grade, text, href });
  const totals = farm.totals.value;
  const groups = [...farm.groups.rows.values()];
  const count = (field) => groups.reduce((sum, group) => sum + group[field], 0);

  if (totals?.blind.own)
    add('bad', "The daemon is blind here: nothing at this machine's own addresses answers.", link('daemon'));
  if (totals?.blind.foreign)
    add('bad', 'The daemon is blind: nothing at other addresses answers. Look at its network.', link('daemon'));
  const ready = farm.ready.value;
  if (ready && !ready.ready && !totals?.blind.own && !totals?.blind.foreign) {
    for (const reason of ready.reasons) add('bad', `Not ready: ${reason}`, link('daemon'));
  }
  const lost = groups.filter(isLost);
  if (lost.length === 1)
    add('bad', `Group ${lost[0].group} of ${lost[0].load_balancer.uid} has no member that is up.`, groupLink(lost[0]));
  if (lost.length > 1)
    add('bad', `${number(lost.length)} groups have no member that is up.`, link('', { show: 'trouble' }));
  for (const limit of farm.limits.value ?? []) {
    const part = limit.max ? limit.used / limit.max : 0;
    if (part < LIMIT_NEAR) continue;
    add(
      part < LIMIT_REACHED ? 'warn' : 'bad',
      `Limit ${limit.name}: ${number(limit.used)} of ${number(limit.max)} used.`,
      link('daemon'),
    );
  }
  const down = count('down');
  if (down) add('warn', `${plural(down, 'member is', 'members are')} down.`, link('members', { state: 'down' }));
  const drained = count('drained');
  if (drained)
    add('warn', `${plural(drained, 'member has', 'members have')} weight 0.`, link('members', { state: 'drained' }));
  if (totals?.groups_in_doubt) {
    add(
      'warn',
      `${plural(totals.groups_in_doubt, 'group is', 'groups are')} in doubt: too many members failed at once.`,
      link('', { show: 'trouble' }),
    );
  }
  const held = totals ? totals.load_balancers - totals.load_balancers_connected : 0;
  if (held)
    add(
      'warn',
      `${plural(held, 'load balancer is', 'load balancers are')} not connected, and held.`,
      link('balancers', { state: 'held' }),
    );
  for (const warning of farm.config.value?.warnings ?? []) add('warn', warning, link('daemon'));
  const quiesced = count('quiesced');
  if (quiesced)
    add('note', `${plural(quiesced, 'member is', 'members are')} quiesced.`, link('members', { state: 'quiesced' }));
  return found.sort((a, b) => GRADES.indexOf(a.grade) - GRADES.indexOf(b.grade));
}

const GRADES = ['bad', 'warn', 'note'];

/** A group that has members, none of which is up though somebody wants one to be. */
function isLost(group) {
  return group.members > 0 && group.up + group.unknown === 0 && group.quiesced < group.members;
}

/** The shape of a group. */
function gradeOf(group) {
  if (isLost(group)) return 'bad';
  if (isInTrouble(group)) return 'warn';
  if (group.members === 0) return 'note';
  return group.quiesced === group.members ? 'quiesced' : 'well';
}

function isInTrouble(group) {
  return isLost(group) || group.in_doubt || group.down > 0;
}

/** The grade of all: that of the worst finding, or `well`; null while too little is known. */
function gradeOfAll(found) {
  if (!farm.totals.value || !farm.groups.loaded) return null;
  return found[0] && found[0].grade !== 'note' ? found[0].grade : 'well';
}

const VERDICTS = { well: 'All is well', warn: 'Something needs a look', bad: 'Something is wrong' };

/** The limit that is nearest. Those of the admin side are used by whoever looks, so they count when they are near. */
function nearestLimit() {
  const part = (limit) => (limit.max ? limit.used / limit.max : 0);
  const notable = (farm.limits.value ?? []).filter(
    (limit) => !limit.name.startsWith('admin_') || part(limit) >= LIMIT_NEAR,
  );
  return notable.sort((a, b) => part(b) - part(a))[0];
}

/** How much of a limit is used. */
function meter({ used, max }) {
  const part = max ? used / max : 0;
  const grade = part >= LIMIT_REACHED ? 'bad' : part >= LIMIT_NEAR ? 'warn' : '';
  return h(
    'span',
    { class: `meter ${grade}`, 'aria-hidden': 'true' },
    h('span', { style: { width: `${Math.min(100, 100 * part)}%` } }),
  );
}
