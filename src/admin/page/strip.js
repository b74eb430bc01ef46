// The bars of weights: a group at a glance.

/** The narrowest bar of a strip that still shows its state, and the widest. In px, with the gap. */
const BAR_MIN = 4;
const BAR_MAX = 18;

/** The most bars of a strip. */
function barsIn(width) {
  return Math.max(1, Math.floor(width / BAR_MIN));
}

/**
 * The members of a group as bars: the height is the weight, the colour and the form are the state. All bars of a state
 * are one path, so a strip of a thousand bars is as cheap as one of ten.
 */
function strip(members, width, height, total) {
  const shown = members.slice(0, barsIn(width));
  const pitch = Math.min(BAR_MAX, width / Math.max(1, shown.length));
  const bar = Math.max(2, pitch - Math.min(3, pitch / 3));
  const top = shown.reduce((most, member) => Math.max(most, member.weight), 1);
  const paths = { up: '', down: '', drained: '', unknown: '', quiesced: '' };
  shown.forEach((member, at) => {
    const state = stateOf(member);
    const x = at * pitch;
    const tall = member.weight > 0 && state !== 'quiesced' && state !== 'down';
    paths[state] += tall
      ? column(x, bar, 2 + (height - 4) * (member.weight / top), height)
      : mark(state, x, bar, height);
  });
  const states = countsText(tally(shown));
  const label = `Weights of ${plural(total, 'member', 'members')}, up to ${number(top)}; in the bars: ${states}`;
  return h(
    'svg',
    { class: 'strip', role: 'img', 'aria-label': label, width, height, viewBox: `0 0 ${width} ${height}` },
    h('path', { class: 'base', d: `M0 ${height - 0.5} H${Math.min(width, shown.length * pitch)}` }),
    STATES.filter((state) => paths[state]).map((state) =>
      h('path', { key: state, class: `bars ${state}`, d: paths[state] }),
    ),
  );
}

function column(x, width, tall, height) {
  return `M${f(x)} ${f(height - tall)}h${f(width)}v${f(tall)}h${f(-width)}z`;
}

/** The form at the foot of a bar that has no height: a cross, a triangle, a pair of posts, a square on its corner. */
function mark(state, x, width, height) {
  const size = Math.min(width, 9);
  const left = x + (width - size) / 2;
  const upper = height - size - 2;
  switch (state) {
    case 'down': {
      // Both strokes turn the same way round: else the browser would leave out where they cross.
      const arm = size / 3.5;
      const along = f(size - arm);
      const falling = `M${f(left)} ${f(upper)}h${f(arm)}l${along} ${f(size)}h${f(-arm)}z`;
      const rising = `M${f(left)} ${f(upper + size)}l${along} ${f(-size)}h${f(arm)}l${-along} ${f(size)}z`;
      return falling + rising;
    }
    case 'drained':
      return `M${f(left)} ${f(upper)}h${f(size)}l${f(-size / 2)} ${f(size)}z`;
    case 'quiesced': {
      const post = size / 3;
      return column(left, post, size + 2, height) + column(left + size - post, post, size + 2, height);
    }
    default: {
      const half = size / 2;
      return `M${f(left + half)} ${f(upper)}l${f(half)} ${f(half)}l${f(-half)} ${f(half)}l${f(-half)} ${f(-half)}z`;
    }
  }
}

/** A coordinate with one decimal. */
function f(value) {
  return Math.round(value * 10) / 10;
}
