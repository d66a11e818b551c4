// How the page gets in: by a key, or by the code in a link. Each is sent once until the server has taken it, since every
// wrong one counts.

import {ask} from './picloud.js';

/** @typedef {import('./picloud.js').Answer} Answer */

/**
 * Takes the code out of the address, where a link `…/#code=…` has put it, and clears it there: an address is seen,
 * shared and remembered. A fragment never reaches the server or a proxy.
 *
 * @returns {string} the code, or ''
 */
export function takeCode() {
  const [name, value = ''] = location.hash.split('=');
  if (name !== '#code') return '';
  history.replaceState(null, '', location.pathname + location.search);
  return value;
}

/**
 * Asks whether the server takes a key.
 *
 * @param {string} key
 * @returns {Promise<Answer>} its status is 200 if it does
 */
export function prove(key) {
  const url = new URL('metrics', document.baseURI); // the shortest answer that needs the key
  url.search = new URLSearchParams({apiKey: key}).toString();
  return ask(url);
}

/**
 * Exchanges a link's code for the key.
 *
 * @param {string} code
 * @returns {Promise<{key: string, reason: string}>} without a key, the reason is why
 */
export async function exchange(code) {
  const url = new URL('sign-in', document.baseURI);
  const {status, reason, response} = await ask(url, {method: 'POST', body: JSON.stringify({code})});
  const {key = ''} = status === 200 ? await response?.json().catch(() => ({})) : {};
  return {key, reason: status === 401 ? 'This link has been used or is out of date: picloud open prints a new one.' : reason};
}
