// Questions to the person: every write is confirmed in a dialog and has a reason.

const NEVER = '';

/** How long a word of the operator can last. */
const EXPIRIES = [
  [NEVER, 'until it is ended'],
  ['900', '15 minutes'],
  ['3600', '1 hour'],
  ['14400', '4 hours'],
  ['86400', '1 day'],
];

/** The writes for which `expires_in_seconds` is known. */
const EXPIRING = ['members/quiesce', 'members/fix-weight'];

/**
 * Asks for what a write needs, then writes. `scopes` are `[text, body]`: what the write can be about, the first being
 * the default. `weight`: `{ value }` if a weight is asked for.
 */
function askToWrite({ title, text, path, scopes, weight, action, isGrave }) {
  const expiring = EXPIRING.includes(path);
  const forgets = expiring && farm.version.value?.writes_survive_restart === false;
  const fields = [
    h('p', null, text),
    scopes.length > 1 &&
      h(
        'fieldset',
        null,
        h('legend', null, 'For'),
        scopes.map(([label], at) =>
          h(
            'label',
            { class: 'choice' },
            h('input', { type: 'radio', name: 'scope', value: at, checked: at === 0 }),
            label,
          ),
        ),
      ),
    weight &&
      h(
        'label',
        null,
        'Weight',
        h('input', {
          name: 'weight',
          type: 'number',
          min: 0,
          max: 65535,
          step: 1,
          required: true,
          value: weight.value,
        }),
      ),
    h(
      'label',
      null,
      'Reason',
      h('input', {
        name: 'reason',
        required: true,
        maxlength: 256,
        autocomplete: 'off',
        autofocus: true,
        placeholder: 'For the log, and for others who look',
      }),
    ),
    h(
      'label',
      null,
      'Your name (may be left out)',
      h('input', { name: 'by', maxlength: 64, autocomplete: 'username', value: localStorage.getItem('by') ?? '' }),
    ),
    expiring &&
      h(
        'label',
        null,
        'It lasts',
        h(
          'select',
          { name: 'expiry' },
          EXPIRIES.map(([value, label]) => h('option', { value }, label)),
        ),
      ),
    forgets && h('p', { class: 'quiet' }, 'The daemon forgets this when it restarts.'),
  ];
  const submit = async (values) => {
    const body = { ...scopes[Number(values.get('scope') ?? 0)][1], reason: values.get('reason').trim() };
    const by = values.get('by').trim();
    localStorage.setItem('by', by);
    if (by) body.by = by;
    if (weight) body.weight = Number(values.get('weight'));
    if (values.get('expiry')) body.expires_in_seconds = Number(values.get('expiry'));
    const outcome = await post(path, body);
    toast(outcome.done);
    readAgain();
  };
  openDialog({ title, fields, action, isGrave, submit });
}

let tokenIsAsked = false;

/** Asks for the token, once however many requests need it. */
function askForToken() {
  if (tokenIsAsked) return;
  tokenIsAsked = true;
  openDialog({
    title: 'The daemon wants a token',
    fields: [
      h(
        'p',
        null,
        'It is the content of the file that --admin-token-file names. This tab keeps it until it is closed.',
      ),
      h(
        'label',
        null,
        'Token',
        h('input', { name: 'token', type: 'password', required: true, autofocus: true, autocomplete: 'off' }),
      ),
    ],
    action: 'Continue',
    submit: async (values) => {
      sessionStorage.setItem('token', values.get('token').trim());
      location.reload();
    },
  });
}

/** Shows a dialog with a form. It closes when `submit(values)` is done; if that fails, it says why and stays. */
function openDialog({ title, fields, action, isGrave, submit }) {
  const dialog = document.getElementById('dialog');
  const error = build(h('p', { class: 'error', role: 'alert' }));
  const accept = build(h('button', { type: 'submit', class: isGrave ? 'grave' : 'main' }, action));
  const form = build(h('form', { method: 'dialog' }, h('h2', { id: 'dialog-title' }, title), fields));
  const cancel = h('button', { type: 'button', onclick: () => dialog.close() }, 'Cancel');
  form.append(error, build(h('div', { class: 'buttons' })));
  form.lastChild.append(build(cancel), accept);
  form.onsubmit = async (event) => {
    event.preventDefault();
    accept.disabled = true;
    error.textContent = '';
    try {
      await submit(new FormData(form));
      dialog.close();
    } catch (failure) {
      error.textContent =
        failure instanceof Refused ? failure.message : 'The daemon does not answer. Nothing is known to be done.';
    }
    accept.disabled = false;
  };
  dialog.replaceChildren(form);
  dialog.showModal();
}

/** How long a message stays. */
const TOAST_MS = 8000;

function toast(text) {
  const element = build(h('p', null, shape('well'), text));
  document.getElementById('toasts').append(element);
  setTimeout(() => element.remove(), TOAST_MS);
}
