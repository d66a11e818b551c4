// Where the key is kept: in this browser's storage or, where the page may not use that, in memory until the page is
// left.

const slot = 'picloud.key';
let inMemory = '';

/** @returns {string} the key, or '' */
export function kept() {
  try {
    return localStorage.getItem(slot) ?? inMemory;
  } catch {
    return inMemory;
  }
}

/** @param {string} key */
export function keep(key) {
  inMemory = key;
  try {
    localStorage.setItem(slot, key);
  } catch {
    // The key in memory will do until the page is left.
  }
}

export function forget() {
  inMemory = '';
  try {
    localStorage.removeItem(slot);
  } catch {
    // Nothing was stored.
  }
}

/**
 * Takes the key out of the address, where a link `…/#key=…` has put it, and clears it there: an address is visible,
 * shared and remembered. A fragment never reaches the server or a proxy.
 *
 * @returns {string} the key, or ''
 */
export function takeFromAddress() {
  const start = '#key=';
  if (!location.hash.startsWith(start)) return '';
  const raw = location.hash.slice(start.length);
  history.replaceState(null, '', location.pathname + location.search);
  try {
    return decodeURIComponent(raw);
  } catch {
    return raw;
  }
}

/**
 * Calls back when another tab of this page signs out.
 *
 * @param {() => void} then
 */
export function whenForgottenElsewhere(then) {
  addEventListener('storage', (change) => {
    // A null key means that the storage was cleared.
    if ((change.key === slot || change.key === null) && change.newValue === null) {
      inMemory = '';
      then();
    }
  });
}
