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
