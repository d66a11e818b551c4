// The page: signs in, wires the parts together, shows whether the server is reachable.

import {byId, input, setText} from './dom.js';
import * as key from './key.js';
import {Overview} from './overview.js';
import {Line, socketAddress} from './picloud.js';
import {exchange, prove, takeCode} from './signin.js';
import {TryIt} from './tryit.js';

const linked = takeCode(); // before anything else, for whoever looks at the address

const silence = 16_000; // ms; the server sends a snapshot every 5 s, and three missing in a row are no accident

/** @type {Line | null} brings the snapshots, while signed in or signing in */
let line = null;

let turn = 0; // counts ways in and out, so that the answer to an earlier one is dropped

const tryIt = new TryIt();
const overview = new Overview((event) => {
  tryIt.watch(event);
  byId('try').scrollIntoView();
});

/**
 * @param {string} candidate
 * @param {boolean} remembered it was accepted before, so it is not asked for again just because the server is away
 */
async function signIn(candidate, remembered) {
  leave();
  showState('', 'Connecting…');
  const mine = turn;
  const {status, final, reason} = await prove(candidate);
  if (mine !== turn) return;
  if (status === 200 || (remembered && !final)) connect(candidate);
  else if (status === 401) refused(candidate, remembered ? `${reason} It may have been changed.` : reason);
  else showWelcome(reason);
}

/**
 * Signs in by a link. If that fails, what was before goes on.
 *
 * @param {string} code
 */
async function follow(code) {
  const mine = ++turn;
  if (!line) showState('', 'Connecting…');
  const {key: sent, reason} = await exchange(code);
  if (mine !== turn) return;
  if (sent) connect(sent);
  else if (line) return;
  else if (key.kept()) signIn(key.kept(), true);
  else showWelcome(reason);
}

/** @param {string} proven or once accepted */
function connect(proven) {
  leave();
  showState('', 'Connecting…');
  let shown = false;
  line = new Line(socketAddress(new URL('.', document.baseURI), 'socket/info', {apiKey: proven}), {
    received: (text) => overview.show(JSON.parse(text)),
    changed: (state, reason, status) => {
      if (state === 'connecting') return;
      if (state === 'closed') {
        if (status === 401) refused(proven, `${reason} It may have been changed.`);
        else showWelcome(reason);
        return;
      }
      if (!shown) showBoard(proven);
      shown = true;
      byId('board').classList.toggle('stale', state === 'away');
      if (state === 'open') showState('live', 'Live');
      else showState('away', `${reason} Trying again…`);
    },
    silence,
  });
  line.open();
}

/**
 * @param {string} candidate the server does not know it
 * @param {string} reason
 */
function refused(candidate, reason) {
  if (key.kept() === candidate) key.forget(); // another one may be as good as before
  showWelcome(reason);
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
  turn++;
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
  const code = takeCode();
  if (code) follow(code);
});

if (linked) follow(linked);
else if (key.kept()) signIn(key.kept(), true);
else showWelcome();
