// The daemon itself: its fleet, its limits, its settings, and the order to read its files again.

class Daemon {
  part = 'daemon';
  title = 'Daemon';

  draw() {
    const [version, limits, config, ready] = [farm.version, farm.limits, farm.config, farm.ready].map(
      (reading) => reading.value,
    );
    return [
      h(
        'div',
        { class: 'heading' },
        h('h1', null, 'Daemon'),
        h(
          'div',
          { class: 'buttons' },
          h(
            'button',
            {
              onclick: () =>
                askToWrite({
                  title: 'Read the files again',
                  path: 'reload',
                  action: 'Read',
                  scopes: [['', {}]],
                  text: 'The daemon reads its files again, as at SIGHUP. Its log says how that went.',
                }),
            },
            'Read files again …',
          ),
        ),
      ),
      h(
        'div',
        { class: 'columns' },
        h(
          'div',
          null,
          version &&
            h(
              'section',
              { class: 'panel' },
              h('h2', null, `${version.name} ${version.version}`),
              h(
                'dl',
                null,
                [
                  ['ready', ready ? (ready.ready ? 'yes' : ready.reasons.join('; ')) : '–'],
                  ['started', when(version.started_at)],
                  ['shards', version.shards],
                  ['features', version.features.join(', ') || 'none'],
                  ['words of operators', version.writes_survive_restart ? 'survive a restart' : 'end with the daemon'],
                ].map(([name, value]) => h('div', { key: name }, h('dt', null, name), h('dd', null, value))),
              ),
            ),
          farm.fleet.value && this.drawFleet(farm.fleet.value),
          limits && this.drawLimits(limits),
        ),
        h('div', null, config && this.drawSettings(config)),
      ),
    ];
  }

  drawFleet(fleet) {
    const waiting = `${number(fleet.changes_waiting)} changes for etcd, ${number(fleet.orders_waiting)} from etcd`;
    return h(
      'section',
      { class: 'panel' },
      h('h2', null, `Fleet ${fleet.name}`),
      fleet.trouble && h('p', { class: 'notice' }, shape('warn'), `etcd is out of reach: ${fleet.trouble}`),
      h(
        'dl',
        null,
        [
          ['this node', fleet.node],
          ['etcd', fleet.etcd ?? '–'],
          ['rows', `${number(fleet.rows)}, not yet written ${number(fleet.rows_ahead)}`],
          ['waiting', waiting],
          ['checks of each member', fleet.redundancy],
        ].map(([name, value]) => h('div', { key: name }, h('dt', null, name), h('dd', null, value))),
      ),
      h(
        'table',
        null,
        columnTitles(['Node', 'Address', 'Started', 'Load balancers', 'Checks', 'Blind']),
        h(
          'tbody',
          null,
          fleet.nodes.map((node) =>
            h(
              'tr',
              { key: node.name },
              h('td', null, node.name),
              h('td', null, node.address),
              h('td', null, when(node.started_at)),
              h('td', null, number(node.load_balancers)),
              h('td', null, number(node.checks)),
              h('td', null, node.blind ? 'yes' : 'no'),
            ),
          ),
        ),
      ),
    );
  }

  drawLimits(limits) {
    const sorted = [...limits].sort((a, b) => b.used / b.max - a.used / a.max);
    return h(
      'section',
      { class: 'panel' },
      h('h2', null, 'Limits'),
      h(
        'table',
        null,
        h(
          'thead',
          null,
          h('tr', null, h('th', { scope: 'col' }, 'Limit'), h('th', { scope: 'col', class: 'right' }, 'Used')),
        ),
        h(
          'tbody',
          null,
          sorted.map((limit) =>
            h(
              'tr',
              { key: limit.name },
              h(
                'td',
                null,
                limit.name,
                limit.flag && h('span', { class: 'quiet' }, ` ${limit.flag}`),
                h('br'),
                h('span', { class: 'quiet' }, limit.text),
              ),
              h('td', { class: 'right used' }, `${number(limit.used)} of ${number(limit.max)}`, meter(limit)),
            ),
          ),
        ),
      ),
    );
  }

  drawSettings({ settings, warnings }) {
    // What somebody has set comes first: the rest is as the manual says.
    const sorted = [...settings].sort((a, b) => (a.source === 'default') - (b.source === 'default'));
    return h(
      'section',
      { class: 'panel' },
      h('h2', null, 'Settings'),
      warnings.map((warning) => h('p', { class: 'notice' }, shape('warn'), warning)),
      h(
        'table',
        { class: 'settings' },
        columnTitles(['Flag', 'Value', 'From']),
        h(
          'tbody',
          null,
          sorted.map(({ flag, value, source, at }) =>
            h(
              'tr',
              { key: flag, class: source === 'default' ? 'quiet' : '' },
              h('td', null, h('code', null, flag)),
              h('td', null, value ?? 'not given'),
              h('td', null, at ?? source),
            ),
          ),
        ),
      ),
    );
  }
}
