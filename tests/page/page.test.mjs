// The page in a real browser, on the real daemon. `cargo test --test process page` runs this file.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { writeFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { Farm, PATIENCE, members, startDemo } from './farm.mjs';

// tests/run installs these; where they are is known only then.
const require = createRequire(join(process.env.GWM_PAGE_MODULES ?? 'target/page', 'package.json'));
const { chromium } = require('playwright-core');
const axe = require.resolve('axe-core/axe.min.js');

const THREE = [
  { address: '10.0.0.1', weight: 40, label: 'web-1' },
  { address: '10.0.0.2', weight: 20, label: 'web-2' },
  { address: '10.0.0.3', weight: 10, label: 'web-3' },
];

const VIEWS = {
  overview: '#/',
  group: '#/group?lb=4c4231&group=web',
  member: '#/member?lb=4c4231&group=web&address=10.0.0.1&port=80&protocol=tcp',
  members: '#/members',
  balancers: '#/balancers',
  daemon: '#/daemon',
  search: '#/search?text=web',
  nothing: '#/member?lb=4c4231&group=web&address=10.9.9.9&port=80&protocol=tcp',
};

let browser;
before(async () => {
  // As root, Chromium runs only without its sandbox. It loads nothing but the daemon's page.
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
});
after(() => browser?.close());

/** What the page complained of: errors of the script, and everything that the content security policy refused. */
let complaints = [];
let contexts = [];

async function open(farm, view = '#/', options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  contexts.push(context);
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => {
    // The browser itself reports a connection that fails, or a status of 4xx.
    if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) complaints.push(message.text());
  });
  await page.goto(farm.page + view);
  return page;
}

afterEach(async () => {
  for (const context of contexts) await context.close();
  contexts = [];
  assert.deepEqual(complaints, []);
});

/** Waits until the text is in the page. */
const sees = (page, text) => page.getByText(text).first().waitFor();

describe('a farm of three members', () => {
  let farm;
  before(async () => {
    farm = await Farm.start(THREE);
  });
  after(() => farm?.stop());

  test('the overview says that all is well, and shows the group', async () => {
    const page = await open(farm);
    await sees(page, 'All is well');
    await page.getByRole('link', { name: 'web', exact: true }).waitFor();
    await page.getByRole('img', { name: /^Weights of 3 members, up to 40; in the bars: 3 up$/ }).waitFor();
    await page.getByRole('link', { name: /^Load balancers 1 1 connected, 0 held/ }).waitFor();
  });

  test('a weight that changes is shown without a reload', async () => {
    const page = await open(farm, VIEWS.group);
    await sees(page, 'weight 70 in all');
    farm.writeWeights([{ ...THREE[0], weight: 75 }, THREE[1], THREE[2]]);
    await sees(page, 'weight 105 in all');
    await page.getByRole('listitem').filter({ hasText: '10.0.0.1:80' }).getByText('weight 75', { exact: true }).waitFor();
    farm.writeWeights(THREE);
    await sees(page, 'weight 70 in all');
  });

  test('a member says why it has its weight, and what happened to it', async () => {
    const page = await open(farm, VIEWS.member);
    await page.getByRole('heading', { name: '10.0.0.1:80' }).waitFor();
    const { why, history, reason } = await farm.get('member?group=web&address=10.0.0.1&port=80&protocol=tcp');
    await sees(page, reason);
    await sees(page, why.text);
    assert.ok(history.length > 0);
    for (const { text } of history.slice(0, 3)) await sees(page, text);
  });

  test('a quiesce asks for a reason, takes the member out, and a resume brings it back', async () => {
    const page = await open(farm, VIEWS.member);
    await page.getByRole('button', { name: 'Quiesce …' }).click();
    const dialog = page.getByRole('dialog', { name: 'Quiesce 10.0.0.1:80' });
    await dialog.getByRole('button', { name: 'Quiesce', exact: true }).click(); // without a reason
    assert.equal((await farm.get('words')).words.length, 0);
    await dialog.getByLabel('Reason').fill('the fan is broken');
    await dialog.getByLabel('Your name').fill('anna');
    await dialog.getByLabel('It lasts').selectOption('1 hour');
    await dialog.getByRole('button', { name: 'Quiesce', exact: true }).click();
    await dialog.waitFor({ state: 'hidden' });
    await page.getByRole('button', { name: 'Resume …' }).first().waitFor();
    await sees(page, 'by an operator here');
    const [word] = (await farm.get('words')).words;
    assert.deepEqual([word.kind, word.reason, word.by, word.group, word.address], ['quiesce', 'the fan is broken', 'anna', 'web', '10.0.0.1']);
    assert.ok(word.expires_at);
    assert.match(farm.log, /the fan is broken/); // the audit line

    await page.goto(farm.page + VIEWS.overview);
    await sees(page, '1 member is quiesced.');
    await sees(page, 'the fan is broken');
    await page.getByRole('button', { name: 'Resume …' }).click();
    await page.getByLabel('Reason').fill('a new fan');
    await page.getByRole('button', { name: 'Resume', exact: true }).click();
    await page.getByText('the fan is broken').waitFor({ state: 'detached' });
    const { members: [member] } = await farm.get('members?group=web&address=10.0.0.1');
    assert.deepEqual([member.quiesced, member.weight], [false, 40]);
  });

  test('a weight that the daemon refuses is explained, and the dialog stays', async () => {
    const page = await open(farm, VIEWS.member);
    await page.getByRole('button', { name: 'Fix weight …' }).click();
    await page.getByLabel('Weight', { exact: true }).fill('60000');
    await page.getByLabel('Reason').fill('to try');
    await page.getByRole('button', { name: 'Fix', exact: true }).click();
    await page.getByRole('alert').filter({ hasText: '--weight-max' }).waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'hidden' });
  });

  test('the keyboard is enough', async () => {
    const page = await open(farm, VIEWS.overview);
    await sees(page, 'All is well');
    await page.keyboard.press('/');
    await page.keyboard.type('web-2');
    await page.getByRole('heading', { name: '“web-2”' }).waitFor();
    const found = page.getByRole('list', { name: 'members' }).getByRole('listitem');
    await found.getByText('10.0.0.2:80').waitFor();
    assert.equal(await found.count(), 1);

    await page.goto(farm.page + VIEWS.group);
    const links = page.getByRole('list', { name: 'members' }).getByRole('link');
    await links.nth(2).waitFor();
    // The list is one stop of the Tab key; arrows go from member to member.
    assert.deepEqual(await links.evaluateAll((all) => all.map((link) => link.tabIndex)), [0, -1, -1]);
    await links.first().focus();
    await page.keyboard.press('End');
    const last = await links.nth(2).textContent();
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: last }).waitFor();
    await page.getByRole('button', { name: 'Quiesce …' }).focus();
    await page.keyboard.press('Enter');
    await page.getByRole('dialog').waitFor();
    assert.equal(await page.evaluate(() => document.activeElement.name), 'reason');
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'hidden' });
    assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Quiesce …');
  });

  for (const colorScheme of ['light', 'dark']) {
    test(`axe finds nothing serious on a ${colorScheme} screen`, async () => {
      const page = await open(farm, '#/', { colorScheme, bypassCSP: true });
      await page.addScriptTag({ path: axe });
      for (const [name, view] of Object.entries(VIEWS)) {
        await show(page, view);
        await hasNothingSerious(page, name);
      }
      await show(page, VIEWS.member);
      await page.getByRole('button', { name: 'Quiesce …' }).click();
      await hasNothingSerious(page, 'dialog');
    });
  }

  for (const width of [360, 3840]) {
    test(`nothing is wider than a window of ${width} px`, async () => {
      const page = await open(farm, '#/', { viewport: { width, height: 740 } });
      for (const [name, view] of Object.entries(VIEWS)) {
        await show(page, view);
        const excess = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(excess <= 0, `${name} is ${excess} px too wide`);
      }
    });
  }
});

/** Goes to a view of the page that is open, and waits until it has read what it shows. */
async function show(page, view) {
  await page.evaluate((hash) => (location.hash = hash), view);
  await page.locator('main h1').waitFor({ state: 'attached' });
  await page.waitForFunction(() => !document.querySelector('main').textContent.includes('Reading …'));
}

async function hasNothingSerious(page, name) {
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const serious = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
  const text = serious.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join('\n')}`).join('\n');
  assert.equal(text, '', `${name}: ${text}`);
}

test('`gwm demo` has a page, whose picture is in README.md', async () => {
  const demo = await startDemo();
  try {
    const page = await open(demo, '#/', { viewport: { width: 1280, height: 490 } });
    await page.getByRole('link', { name: 'dns', exact: true }).waitFor();
    // The story takes some seconds to here.
    await sees(page, '1 member is quiesced.');
    await page.getByRole('img', { name: /^Weights of 3 members/ }).waitFor();
    // GWM_PICTURE=src/admin/page/page.png makes the picture anew.
    if (process.env.GWM_PICTURE) await page.screenshot({ path: process.env.GWM_PICTURE });
  } finally {
    await demo.stop();
  }
});

test('the page says that the daemon is gone, and goes on when it is back', async () => {
  const farm = await Farm.start(THREE);
  try {
    const page = await open(farm);
    await sees(page, 'All is well');
    await farm.stopDaemon();
    await page.getByRole('alert').filter({ hasText: 'The daemon does not answer' }).waitFor();
    await sees(page, 'no connection');
    farm.writeWeights([{ ...THREE[0], weight: 99 }, THREE[1], THREE[2]]);
    await farm.startAgain();
    await page.getByText('live', { exact: true }).waitFor();
    assert.equal(await page.getByText('The daemon does not answer').count(), 0);
    // The load balancer registers its group again; the page has not been loaded again.
    await page.getByRole('img', { name: /^Weights of 3 members, up to 99/ }).waitFor();
  } finally {
    await farm.stop();
  }
});

test('a daemon with a token: the page asks for it, and uses it for the stream too', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'gwm-page-'));
  writeFileSync(join(directory, 'token'), 'correct-horse-battery\n', { mode: 0o600 });
  const farm = await Farm.start(THREE, ['--admin-token-file', join(directory, 'token')]);
  try {
    const page = await open(farm);
    await page.getByRole('textbox', { name: 'Token' }).fill('correct-horse-battery');
    await page.getByRole('button', { name: 'Continue' }).click();
    await sees(page, 'All is well');
    await page.getByText('live', { exact: true }).waitFor();
  } finally {
    await farm.stop();
    rmSync(directory, { recursive: true });
  }
});

test('10,000 members: the document holds only what is near the window', async () => {
  const listed = members(10_000, 50);
  const farm = await Farm.start(listed);
  try {
    const page = await open(farm, '#/group?lb=4c4231&group=web');
    const list = page.getByRole('list', { name: 'members' });
    await list.locator('[aria-setsize="10000"]').first().waitFor();
    const cells = list.getByRole('listitem');
    assert.ok((await cells.count()) < 200, 'cells in the document');
    await cells.first().getByRole('link').focus();
    await page.keyboard.press('End');
    await list.locator('[aria-posinset="10000"] a:focus').waitFor();
    assert.ok((await cells.count()) < 200, 'cells in the document');
    // Still live, at the far end of the list.
    const name = await list.locator('[aria-posinset="10000"] a').textContent();
    const changed = listed.map((member) => (name === `${member.address}:80` ? { ...member, weight: 77 } : member));
    farm.writeWeights(changed);
    await cells.filter({ hasText: name }).getByText('weight 77', { exact: true }).waitFor();
    await page.keyboard.press('/');
    await page.keyboard.type('web-9999');
    await page.getByRole('heading', { name: '“web-9999”' }).waitFor();
    await page.locator('[aria-setsize="1"]').getByText(`${listed.at(-1).address}:80`).waitFor();
  } finally {
    await farm.stop();
  }
});

test('30,000 members: the page says that it holds the first 20,000, and the search finds the others', async () => {
  const listed = members(30_000, 50);
  const farm = await Farm.start(listed);
  try {
    const page = await open(farm, '#/group?lb=4c4231&group=web');
    await sees(page, 'weight 1,500,000 in all');
    await sees(page, 'Only the first 20,000 are read. A whole address in the search finds others.');
    const list = page.getByRole('list', { name: 'members' });
    await list.locator('[aria-setsize="20000"]').first().waitFor();
    assert.ok((await list.getByRole('listitem').count()) < 200, 'cells in the document');
    const { address } = listed.at(-1);
    await page.keyboard.press('/');
    await page.keyboard.type(address);
    await page.getByRole('heading', { name: `“${address}”` }).waitFor();
    await page.locator('[aria-setsize="1"]').getByText(`${address}:80`).waitFor();
  } finally {
    await farm.stop();
  }
});
