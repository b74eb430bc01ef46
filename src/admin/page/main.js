// The frame: which view is shown, the header, and the beat that keeps all of it fresh.

const VIEWS = {
  '': Overview,
  members: Members,
  group: GroupView,
  member: MemberView,
  balancers: Balancers,
  daemon: Daemon,
  search: Search,
};

/** What the page shows now. */
let view = { draw: () => [] };

/** Shows the view that the address names. The focus goes to its begin, so that a screen reader reads it. */
function showView() {
  const [, name, query] = /^#?\/?([^?]*)\??(.*)$/.exec(location.hash);
  const shown = VIEWS[name] ?? Overview;
  view = new shown(new URLSearchParams(query), view);
  document.getElementById('main').replaceChildren();
  redrawNow();
  scrollTo(0, 0);
  const input = document.querySelector('#search input');
  if (view instanceof Search) {
    if (input.value.trim() !== view.text) input.value = view.text;
  } else if (document.activeElement !== input) {
    input.value = '';
    document.getElementById('main').focus({ preventScroll: true });
  }
  freshen();
}

let isDue = false;

/** Draws the page before the browser shows its next picture, once however often this is called. */
function redraw() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(redrawNow);
}

function redrawNow() {
  isDue = false;
  drawFrame();
  patch(document.getElementById('main'), view.draw().flat(Infinity).filter(Boolean));
}

function drawFrame() {
  for (const anchor of document.querySelectorAll('nav a')) {
    if (anchor.dataset.part === view.part) anchor.setAttribute('aria-current', 'page');
    else anchor.removeAttribute('aria-current');
  }
  const grade = connection.live ? gradeOfAll(findings()) : null;
  const words = connection.live ? 'live' : 'no connection';
  patch(document.getElementById('connection'), [h('span', { class: connection.live ? 'live' : 'dead' }, words)]);
  const mark = connection.live ? ({ bad: '✕ ', warn: '! ' }[grade] ?? '') : '(no connection) ';
  document.title = `${mark}${view.title ?? ''} – gwm`;
  document.body.classList.toggle('stale', !connection.live && connection.since !== undefined);
  patch(
    document.getElementById('gone'),
    !connection.live && connection.since
      ? [
          h(
            'p',
            null,
            shape('bad'),
            `The daemon does not answer since ${clock(connection.since)}. `,
            'What you see is old. The page tries again by itself.',
          ),
          h('button', { onclick: () => stream.tryNow() }, 'Try now'),
        ]
      : [],
  );
  const version = farm.version.value;
  patch(
    document.getElementById('footer'),
    version ? [h('p', null, `${version.name} ${version.version}, started `, when(version.started_at))] : [],
  );
}

let shownVersion = null;

/** A daemon of another version has another page. */
function reloadForNewVersion() {
  const version = farm.version.value?.version ?? null;
  if (shownVersion !== null && version !== null && version !== shownVersion) location.reload();
  shownVersion ??= version;
}

/** How often the page looks for what it has to read. */
const BEAT_MS = 250;

const stream = new Stream(takeEvent, (state) => {
  connection = state;
  if (state.live) for (const reading of readings()) reading.readAt = -Infinity; // what is stale does not wait
  redraw();
});

addEventListener('hashchange', showView);
addEventListener('scroll', redraw, { passive: true });
addEventListener('resize', redraw);
document.addEventListener('visibilitychange', redraw);
document.getElementById('skip').addEventListener('click', (event) => {
  event.preventDefault(); // the address is that of the view
  document.getElementById('main').focus();
});
document.getElementById('search').addEventListener('submit', (event) => event.preventDefault());
document.getElementById('search').addEventListener('input', (event) => {
  const text = event.target.value.trim();
  location.replace(text ? link('search', { text }) : link(''));
});
addEventListener('keydown', (event) => {
  const isTyping = event.target.closest?.('input, select, textarea, dialog');
  if (event.key !== '/' || isTyping || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  document.querySelector('#search input').focus();
});
setInterval(() => {
  freshen();
  reloadForNewVersion();
}, BEAT_MS);
setInterval(redraw, 5000); // ages grow
showView();
stream.run();
