// The page: signs in, wires the parts together, shows whether the server is there.

import {knock, socketAddress} from './api.js';
import * as key from './key.js';
import {LiveSocket} from './livesocket.js';
import {Overview} from './overview.js';
import {setText} from './rows.js';
import {TryIt} from './tryit.js';

const silence = 16_000; // ms; the server sends a snapshot every 5 s, and three missing ones are no accident

let current = ''; // the key in use, '' while signed out
let asking = 0; // counts sign-ins, so that the answer to an old one is dropped

const tryIt = new TryIt(() => keyRefused());
const overview = new Overview((event) => {
  tryIt.watch(event);
  byId('try').scrollIntoView();
});
const info = new LiveSocket({
  address: () => socketAddress('info', {apiKey: current}),
  received: (text) => overview.show(JSON.parse(text)),
  changed: (state, reason) => {
    byId('board').classList.toggle('stale', state === 'away');
    if (state === 'open') showState('live', 'Live');
    else if (state === 'away') showState('away', `${reason} Trying again…`);
    // While the server is away each attempt is a flicker between two words; the first one stays.
    else if (byId('state').dataset.state !== 'away') showState('', 'Connecting…');
  },
  refused: async () => {
    const verdict = await knock(current);
    if (verdict.wrongKey) keyRefused();
    return {
      stop: verdict.wrongKey,
      wait: verdict.wait,
      reason: verdict.reason ||
        'The server answers, but its live connection does not open: it may be full, or a proxy stands in between.',
    };
  },
  silence,
});

/**
 * @param {string} candidate
 * @param {boolean} remembered it was taken before, so a server that is away is no reason to ask for it again
 */
async function signIn(candidate, remembered) {
  const mine = ++asking;
  showState('', 'Connecting…');
  const verdict = await knock(candidate);
  if (mine !== asking) return;
  if (verdict.welcome || (remembered && !verdict.wrongKey)) {
    showBoard(candidate);
  } else {
    if (remembered) key.forget();
    showWelcome(verdict.reason);
  }
}

/** @param {string} accepted */
function showBoard(accepted) {
  leave();
  current = accepted;
  key.keep(accepted);
  input('key').value = '';
  byId('welcome').hidden = true;
  byId('board').hidden = false;
  byId('sign-out').hidden = false;
  byId('board').focus({preventScroll: true});
  tryIt.start(accepted);
  info.open();
}

/** @param {string} [reason] why the key is asked for (again) */
function showWelcome(reason = '') {
  leave();
  byId('board').hidden = true;
  byId('sign-out').hidden = true;
  byId('welcome').hidden = false;
  setText(byId('sign-in-error'), reason);
  input('key').setAttribute('aria-invalid', String(reason !== ''));
  input('key').focus();
  input('key').select();
}

/** Ends what the signed-in page does; nothing of what it showed remains. */
function leave() {
  info.close();
  tryIt.stop();
  overview.clear();
  current = '';
  byId('board').classList.remove('stale');
  showState('', '');
}

function keyRefused() {
  key.forget();
  showWelcome('The server no longer takes this key.');
}

/**
 * @param {string} state
 * @param {string} text
 */
function showState(state, text) {
  byId('state').dataset.state = state;
  setText(byId('state'), text);
}

/** @param {string} id */
function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/** @param {string} id */
function input(id) {
  return /** @type {HTMLInputElement} */ (document.getElementById(id));
}

setText(byId('host'), location.host);
document.title = `PiCloud · ${location.host}`;
byId('sign-in').onsubmit = (submit) => {
  submit.preventDefault();
  setText(byId('sign-in-error'), '');
  signIn(input('key').value.trim(), false);
};
byId('sign-out').onclick = () => {
  key.forget();
  showWelcome();
};
key.whenForgottenElsewhere(() => showWelcome());
// The same page stays when only the fragment of its address changes.
addEventListener('hashchange', () => {
  const linked = key.takeFromAddress();
  if (linked) signIn(linked, false);
});

const linked = key.takeFromAddress();
if (linked) signIn(linked, false);
else if (key.kept()) signIn(key.kept(), true);
else showWelcome();
