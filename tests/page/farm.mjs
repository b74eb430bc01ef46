// A farm for the tests of the page: the real daemon, a load balancer, and members that the operator's file gives weights.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

/** A test waits this long for what must happen; then it is a hang. */
export const PATIENCE = 60_000;

const gwm = process.env.GWM ?? 'target/debug/gwm';

/** `gwm` with these arguments, without `GWM_…` variables of the environment. */
function run(args, stdio) {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('GWM')));
  return spawn(gwm, args, { env, stdio });
}

/** Members of a group, all with one weight: 10.0.0.0, 10.0.0.1, … and port 80. */
export function members(count, weight) {
  const address = (at) => `10.${(at >> 16) & 255}.${(at >> 8) & 255}.${at & 255}`;
  return Array.from({ length: count }, (_, at) => ({ address: address(at), weight, label: `web-${at}` }));
}

/** `gwm demo`: the address of its page, and what ends it. */
export async function startDemo() {
  const demo = run(['demo'], ['ignore', 'pipe', 'inherit']);
  const ended = once(demo, 'exit');
  const stop = async () => {
    demo.kill('SIGINT');
    await ended;
  };
  let page = null;
  for await (const line of createInterface({ input: demo.stdout })) {
    page = /^A browser shows the same at (\S+)/.exec(line)?.[1] ?? null;
    if (page) break;
  }
  // It goes on printing.
  demo.stdout.resume();
  if (page) return { page, stop };
  throw new Error('the demo ends before it has a page');
}

export class Farm {
  /** Starts a daemon, and a load balancer LB1 with the members as its group `web`. */
  static async start(listed, flags = []) {
    const farm = new Farm();
    farm.directory = mkdtempSync(join(tmpdir(), 'gwm-page-'));
    farm.flags = flags;
    farm.log = '';
    farm.writeWeights(listed);
    const groups = listed.map(({ address, label }) =>
      `[[group.member]]\naddress = "${address}"\nprotocol = "tcp"\nport = 80\nlabel = "${label}"\n`);
    writeFileSync(join(farm.directory, 'groups.toml'), `[[group]]\nname = "web"\n${groups.join('')}`);
    await farm.startDaemon('127.0.0.1:0', '127.0.0.1:0');
    farm.balancer = run(['lb', 'watch', '--gwm', farm.address, '--uid', 'LB1', '--trust', '--retry', '1s', '--json',
      '--groups', join(farm.directory, 'groups.toml')], ['ignore', 'pipe', 'inherit']);
    farm.balancer.stdout.resume();
    return farm;
  }

  async startDaemon(listen, admin) {
    this.daemon = run(['serve', '--listen', listen, '--admin-listen', admin, '--shards', '1', '--probe', 'off',
      '--members', join(this.directory, 'members.toml'), ...this.flags], ['ignore', 'pipe', 'pipe']);
    this.daemon.stderr.on('data', (text) => (this.log += text));
    this.ended = once(this.daemon, 'exit');
    this.address = null;
    for await (const line of createInterface({ input: this.daemon.stdout })) {
      this.address ??= /^gwm: listening on (\S+)/.exec(line)?.[1] ?? null;
      this.page = /^gwm: admin on (\S+)/.exec(line)?.[1] ?? null;
      if (this.page) return;
    }
    throw new Error(`the daemon does not start: ${this.log}`);
  }

  async stopDaemon() {
    this.daemon.kill('SIGTERM');
    await this.ended;
  }

  /** Starts the daemon again, at the same addresses. */
  async startAgain() {
    await this.startDaemon(this.address, new URL(this.page).host);
  }

  /** Gives members new weights; a running daemon reads them. */
  writeWeights(listed) {
    const entry = ({ address, weight }) =>
      `[[member]]\naddress = "${address}"\nprotocol = "tcp"\nport = 80\nweight = ${weight}\nmonitor = "none"\n`;
    const [fresh, file] = ['members.new', 'members.toml'].map((name) => join(this.directory, name));
    writeFileSync(fresh, listed.map(entry).join('\n'));
    renameSync(fresh, file);
    this.daemon?.kill('SIGHUP');
  }

  /** What the daemon answers. */
  async get(path) {
    const response = await fetch(new URL(`/api/v1/${path}`, this.page));
    return response.json();
  }

  async stop() {
    this.balancer.kill('SIGTERM');
    await this.stopDaemon();
    rmSync(this.directory, { recursive: true });
  }
}
