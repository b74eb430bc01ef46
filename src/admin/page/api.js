// Requests to the daemon, and its stream of events.

const API = '/api/v1/';

/** The daemon refused a request, in its own words. */
class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The content of --admin-token-file, where the daemon wants it. It ends with the browser's tab. */
function headers(more) {
  const token = sessionStorage.getItem('token');
  return token ? { ...more, Authorization: `Bearer ${token}` } : { ...more };
}

async function answer(response) {
  const value = await response.json().catch(() => ({}));
  if (response.status === 401) askForToken();
  if (!response.ok)
    throw new Refused(response.status, value.error?.message ?? `The daemon answers ${response.status}.`);
  return value;
}

async function get(path, query) {
  const text = new URLSearchParams(query ?? {}).toString();
  return answer(await fetch(API + path + (text ? `?${text}` : ''), { headers: headers() }));
}

async function post(path, body) {
  const json = headers({ 'Content-Type': 'application/json' });
  return answer(await fetch(API + path, { method: 'POST', headers: json, body: JSON.stringify(body) }));
}

/** The most rows that the daemon gives at once. */
const PAGE_ROWS = 1000;

/** Reads the pages of a list and gives each to `take`, until it has `cap` rows. Tells whether that was all. */
async function pages(path, field, query, cap, take) {
  let after = null;
  let count = 0;
  do {
    const limit = Math.min(PAGE_ROWS, cap - count);
    const page = await get(path, { ...query, limit, ...(after === null ? {} : { after }) });
    count += page[field].length;
    after = page.next;
    take(page[field]);
  } while (after !== null && count < cap);
  return after === null;
}

/** A daemon that says nothing for so long is gone: it sends a comment every 15 s. */
const SILENCE_MS = 40_000;

/** The waits between attempts to connect. */
const WAITS_MS = [500, 1000, 2000, 4000, 8000];

/**
 * The stream of events, which connects again by itself and goes on after the last event. `EventSource` can neither send
 * a token nor tell when it tries again. `onEvent(kind, value)` gets the events; `onState({ live, since, retryAt })`
 * hears when the connection begins and ends.
 */
class Stream {
  constructor(onEvent, onState) {
    Object.assign(this, { onEvent, onState, lastId: null, failures: 0, since: Date.now(), wake: () => {} });
  }

  async run() {
    for (;;) {
      try {
        await this.connect();
      } catch {
        // The reason does not matter: what helps is to try again.
      }
      if (this.failures === 0) this.since = Date.now();
      const wait = WAITS_MS[Math.min(this.failures, WAITS_MS.length - 1)];
      this.failures += 1;
      this.onState({ live: false, since: this.since, retryAt: Date.now() + wait });
      await new Promise((resolve) => {
        this.wake = resolve;
        setTimeout(resolve, wait);
      });
    }
  }

  /** Ends the wait between two attempts. */
  tryNow() {
    this.wake();
  }

  async connect() {
    const abort = new AbortController();
    let watch = setTimeout(() => abort.abort(), SILENCE_MS);
    try {
      const known = this.lastId === null ? {} : { 'Last-Event-ID': this.lastId };
      const response = await fetch(`${API}events`, {
        headers: headers(known),
        signal: abort.signal,
        cache: 'no-store',
      });
      if (!response.ok) await answer(response);
      this.failures = 0;
      this.onState({ live: true });
      if (this.lastId === null) this.onEvent('reset', {});
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = '';
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        clearTimeout(watch);
        watch = setTimeout(() => abort.abort(), SILENCE_MS);
        const events = (text + value).replaceAll('\r\n', '\n').split('\n\n');
        text = events.pop();
        for (const event of events) this.take(event);
      }
    } finally {
      clearTimeout(watch);
      abort.abort();
    }
  }

  /** Takes one event: lines of the form `name: value`. A comment has no name. */
  take(event) {
    const fields = {};
    for (const line of event.split('\n')) {
      const colon = line.indexOf(':');
      if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).replace(/^ /, '');
    }
    if (fields.id) this.lastId = fields.id;
    if (fields.event) this.onEvent(fields.event, JSON.parse(fields.data ?? '{}'));
  }
}
