// Where the key is kept: in this browser's storage, or, where that is closed to the page, in memory until it is left.

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
    // The key in memory serves until the page is left.
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
 * Takes the key out of the address, where a link `…/#key=…` has put it, and clears it there: an address is shown,
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
    // A null key is a cleared storage.
    if ((change.key === slot || change.key === null) && change.newValue === null) {
      inMemory = '';
      then();
    }
  });
}
