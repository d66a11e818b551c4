// The page: signs in, wires the parts together, shows whether the server is reachable.

import {byId, input, setText} from './dom.js';
import * as key from './key.js';
import {Overview} from './overview.js';
import {Line, socketAddress} from './picloud.js';
import {TryIt} from './tryit.js';

const silence = 16_000; // ms; the server sends a snapshot every 5 s, and three missing in a row are no accident

/** @type {Line | null} brings the snapshots, while signed in or signing in */
let line = null;

const tryIt = new TryIt();
const overview = new Overview((event) => {
  tryIt.watch(event);
  byId('try').scrollIntoView();
});

/**
 * @param {string} candidate
 * @param {boolean} remembered it was accepted before, so it is not asked for again just because the server is away
 */
function signIn(candidate, remembered) {
  leave();
  showState('', 'Connecting…');
  let signedIn = false;
  line = new Line(socketAddress(new URL('.', document.baseURI), 'socket/info', {apiKey: candidate}), {
    received: (text) => overview.show(JSON.parse(text)),
    changed: (state, reason) => {
      if (state === 'closed') {
        key.forget();
        showWelcome(signedIn || remembered ? `${reason} It may have been changed.` : reason);
      } else if (state === 'open' || (state === 'away' && (signedIn || remembered))) {
        if (!signedIn) showBoard(candidate);
        signedIn = true;
        byId('board').classList.toggle('stale', state === 'away');
        if (state === 'open') showState('live', 'Live');
        else showState('away', `${reason} Trying again…`);
      } else if (state === 'away') {
        showWelcome(reason);
      }
    },
    silence,
  });
  line.open();
}

/** @param {string} accepted */
function showBoard(accepted) {
  key.keep(accepted);
  input('key').value = '';
  byId('welcome').hidden = true;
  for (const id of ['board', 'nav', 'sign-out']) byId(id).hidden = false;
  byId('board').focus({preventScroll: true});
  tryIt.start(accepted);
}

/** @param {string} [reason] why the key is asked for (again) */
function showWelcome(reason = '') {
  leave();
  for (const id of ['board', 'nav', 'sign-out']) byId(id).hidden = true;
  byId('welcome').hidden = false;
  setText(byId('sign-in-error'), reason);
  input('key').setAttribute('aria-invalid', String(reason !== ''));
  input('key').focus();
  input('key').select();
}

/** Ends what the signed-in page does, and clears what it showed. */
function leave() {
  line?.close();
  line = null;
  tryIt.stop();
  overview.clear();
  byId('board').classList.remove('stale');
  showState('', '');
}

/**
 * @param {string} state
 * @param {string} text
 */
function showState(state, text) {
  byId('state').dataset.state = state;
  setText(byId('state'), text);
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
