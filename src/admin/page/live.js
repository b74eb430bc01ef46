// What the page knows, and how it stays true: events say what is stale, and what a view shows is then read again.

/** One answer of the daemon that is read again when it is stale: at most once in `gap`, and every `every` ms. */
class Reading {
  constructor(read, { gap = 1000, every = Infinity } = {}) {
    Object.assign(this, { read, gap, every, value: null, error: null, stale: true, busy: false, readAt: -Infinity });
  }

  isDue(now) {
    const age = now - this.readAt;
    return !this.busy && ((this.stale && age >= this.gap) || age >= this.every);
  }

  async refresh() {
    Object.assign(this, { busy: true, stale: false, readAt: performance.now() });
    try {
      this.value = await this.read();
      this.error = null;
    } catch (error) {
      this.stale = true;
      this.error = error instanceof Refused ? error : null; // without a connection the header says so
    }
    this.busy = false;
    redraw();
  }
}

/** The most subjects of a list that are read one by one; of more, the whole list is read. */
const TOUCHED_MAX = 200;

/** How many subjects are read at a time. */
const TOUCHED_AT_ONCE = 20;

/**
 * The rows of a list, by key, up to `cap`. `touch` says that a subject has changed: a subject is what an event names,
 * and a query finds all its rows.
 */
class RowList {
  constructor(path, field, query, { cap = 20_000, gap = 5000, every = Infinity, keyOf, subjectOf }) {
    Object.assign(this, { path, field, query, cap, keyOf, subjectOf, rows: new Map(), touched: new Map() });
    Object.assign(this, { whole: false, loaded: false, version: 0 });
    this.all = new Reading(() => this.readAll(), { gap, every });
    this.some = new Reading(() => this.readTouched(), { gap: 500 });
    this.some.stale = false;
  }

  get readings() {
    return [this.all, this.some];
  }

  get error() {
    return this.all.error;
  }

  touch(subject, query) {
    if (this.touched.size < TOUCHED_MAX) this.touched.set(subject, query);
    else this.all.stale = true;
    this.some.stale = true;
  }

  /** Whether a row has this subject. */
  has(subject) {
    if (this.subjectsVersion !== this.version) {
      this.subjects = new Set([...this.rows.values()].map(this.subjectOf));
      this.subjectsVersion = this.version;
    }
    return this.subjects.has(subject);
  }

  async readAll() {
    this.touched.clear();
    const rows = new Map();
    const isFirst = !this.loaded;
    const take = (page) => {
      for (const row of page) rows.set(this.keyOf(row), row);
      if (isFirst) this.show(rows); // a long list shows its first rows at once
    };
    try {
      this.whole = await pages(this.path, this.field, this.query, this.cap, take);
    } catch (error) {
      if (error.status !== 404) throw error;
      rows.clear(); // what the query names is gone
      this.whole = true;
    }
    this.loaded = true;
    this.show(rows);
  }

  show(rows) {
    this.rows = rows;
    this.version += 1;
    redraw();
  }

  async readTouched() {
    const batch = [...this.touched].slice(0, TOUCHED_AT_ONCE);
    for (const [subject] of batch) this.touched.delete(subject);
    const found = await Promise.all(batch.map(([, query]) => this.readSubject(query)));
    const subjects = new Set(batch.map(([subject]) => subject));
    const news = new Map(found.flat().map((row) => [this.keyOf(row), row]));
    for (const [key, row] of this.rows) {
      if (subjects.has(this.subjectOf(row)) && !news.has(key)) this.rows.delete(key);
    }
    for (const [key, row] of news) this.rows.set(key, row); // a row that was known keeps its place
    this.some.stale ||= this.touched.size > 0;
    this.show(this.rows);
  }

  async readSubject(query) {
    const rows = [];
    try {
      await pages(this.path, this.field, { ...this.query, ...query }, PAGE_ROWS, (page) => rows.push(...page));
    } catch (error) {
      if (error.status === 404) return []; // the subject is gone
      this.all.stale = true;
      throw error;
    }
    return rows;
  }
}

const groupKey = (row) => `${row.load_balancer.uid_hex} ${row.group}`;

function memberList(query, options) {
  const keyOf = (row) => `${groupKey(row)} ${endpointKey(row)}`;
  return new RowList('members', 'members', query, { keyOf, subjectOf: endpointKey, ...options });
}

function groupList() {
  return new RowList('groups', 'groups', {}, { keyOf: groupKey, subjectOf: groupKey });
}

function balancerList() {
  const uid = (row) => row.uid_hex;
  return new RowList('load-balancers', 'load_balancers', {}, { keyOf: uid, subjectOf: uid, every: 10_000 });
}

/** What every view may show. */
const farm = {
  version: new Reading(() => get('version'), { every: 60_000 }),
  totals: new Reading(() => get('totals'), { every: 10_000 }),
  limits: new Reading(() => get('limits').then((answer) => answer.limits), { every: 5000 }),
  words: new Reading(() => get('words').then((answer) => answer.words)),
  config: new Reading(() => get('config')),
  fleet: new Reading(() => get('fleet').then((answer) => answer.fleet), { every: 5000 }),
  ready: new Reading(() => fetch('/readyz').then((response) => response.json()), { every: 5000 }),
  groups: groupList(),
};

/** The connection to the daemon: `{ live: true }`, or since when it is gone and when the page tries again. */
let connection = { live: false };

function takeEvent(kind, value) {
  switch (kind) {
    case 'endpoint':
      farm.groups.all.stale = true; // its counts change; 5 s are soon enough for groups that nobody sees
      break;
    case 'group': {
      const { load_balancer, group } = value;
      farm.groups.touch(groupKey(value), { load_balancer_hex: load_balancer.uid_hex, group });
      farm.totals.stale = true;
      break;
    }
    case 'load_balancer':
      farm.totals.stale = true;
      if (value.change === 'forgotten') farm.groups.all.stale = true;
      break;
    case 'blind':
      farm.totals.stale = true;
      farm.ready.stale = true;
      break;
    case 'words':
      farm.words.stale = true;
      farm.totals.stale = true;
      break;
    case 'reset':
      readAgain();
      break;
  }
  view.onEvent?.(kind, value);
}

/** All that the present view needs. */
function readings() {
  const { version, totals, limits, words, config, fleet, ready, groups } = farm;
  return [version, totals, limits, words, config, fleet, ready, ...groups.readings, ...(view.readings?.() ?? [])];
}

/** Makes all that is shown be read now: nobody knows what has changed, or a person wants to see it. */
function readAgain() {
  for (const reading of readings()) Object.assign(reading, { stale: true, readAt: -Infinity });
}

/** Reads what is due. A page that nobody looks at reads nothing; its events wait as what is stale. */
function freshen() {
  if (!connection.live || document.hidden) return;
  const now = performance.now();
  for (const reading of readings()) if (reading.isDue(now)) reading.refresh();
}
