// The operator's words that are in force.

/** The operator's words, each with a button that ends it. */
function wordTable(words) {
  const row = (word) =>
    h(
      'tr',
      { key: word.number },
      h('td', null, h('strong', null, wordText(word)), h('br'), h('span', { class: 'quiet' }, word.reason)),
      h(
        'td',
        null,
        word.by || word.from,
        h('br'),
        h('span', { class: 'quiet' }, when(word.at), word.expires_at && `, ends ${until(word.expires_at)}`),
      ),
      h(
        'td',
        { class: 'act' },
        word.kind !== 'resume' &&
          h('button', { onclick: () => endWord(word) }, word.kind === 'weight' ? 'Release …' : 'Resume …'),
      ),
    );
  return h(
    'table',
    { class: 'words' },
    columnTitles(['What', 'Who and when', 'End'], { class: 'unseen' }),
    h('tbody', null, words.map(row)),
  );
}

function wordText(word) {
  const place =
    [
      word.address && endpointName({ ...word, port: word.port ?? 'any port', protocol: word.protocol ?? 'tcp' }),
      word.group && `group ${word.group}`,
      word.load_balancer && `load balancer ${word.load_balancer.uid}`,
    ]
      .filter(Boolean)
      .join(', ') || 'everything';
  const act = { quiesce: 'Quiesced', resume: 'Not quiesced', weight: `Weight ${word.weight}` }[word.kind];
  return `${act}: ${place}`;
}

/** Asks for the end of a word: the write that matches exactly what the word matches. */
function endWord(word) {
  const isWeight = word.kind === 'weight';
  const body = {};
  for (const field of ['group', 'address', 'port', 'protocol']) if (word[field] !== null) body[field] = word[field];
  if (word.load_balancer) body.load_balancer_hex = word.load_balancer.uid_hex;
  askToWrite({
    title: isWeight ? 'Release the weight' : 'Resume',
    text: wordText(word),
    scopes: [['', body]],
    path: isWeight ? 'members/release-weight' : 'members/resume',
    action: isWeight ? 'Release' : 'Resume',
  });
}
