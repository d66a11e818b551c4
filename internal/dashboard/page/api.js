// The server's routes, as the page calls them. Addresses are relative to the page, so that it also works behind a
// reverse proxy that serves it below a prefix.

/**
 * @typedef {object} Verdict what the server says to a key
 * @property {boolean} welcome
 * @property {boolean} wrongKey
 * @property {string} reason for people; '' when welcome
 * @property {number} wait seconds to wait before asking again, at least
 */

/**
 * Asks whether the server takes the key. A browser does not let a page see why a WebSocket failed to open, so this
 * plain request is the only way to tell a wrong key from a server that is away.
 *
 * @param {string} key
 * @returns {Promise<Verdict>}
 */
export async function knock(key) {
  if (!headerSafe(key)) return refusal('The server does not know this key.', {wrongKey: true});
  let response;
  try {
    response = await fetch(address('info'), {
      headers: {'X-API-Key': headerText(key)},
      cache: 'no-store',
      signal: AbortSignal.timeout(10_000),
    });
  } catch {
    return refusal('The server cannot be reached.');
  }
  // The snapshot itself comes over the WebSocket.
  response.body?.cancel().catch(() => {});
  const wait = Number(response.headers.get('Retry-After')) || 0;
  switch (response.status) {
    case 200:
      return {welcome: true, wrongKey: false, reason: '', wait: 0};
    case 401:
      return refusal('The server does not know this key.', {wrongKey: true});
    case 429:
      return refusal(`Too many wrong keys came from this address. Try again in ${wait || 60} s.`, {wait: wait || 60});
    case 503:
      return refusal('The server is full or stopping.', {wait});
    default:
      return refusal(`The server answered ${response.status}.`, {wait});
  }
}

/**
 * @param {string} reason
 * @param {{wrongKey?: boolean, wait?: number}} [more]
 * @returns {Verdict}
 */
function refusal(reason, {wrongKey = false, wait = 0} = {}) {
  return {welcome: false, wrongKey, reason, wait};
}

/**
 * Publishes once. It resolves when every subscriber of that moment has the message in its queue.
 *
 * @param {{key: string, name: string, event: string, data: string}} message data is JSON, and is sent as it stands:
 *   parsed and written again, a long number would lose its last digits
 * @returns {Promise<void>} rejects with an Error whose message is for people
 */
export async function publish({key, name, event, data}) {
  let response;
  try {
    response = await fetch(address('publish'), {
      method: 'POST',
      headers: {
        'Content-Type': 'application/json',
        'X-API-Key': headerText(key),
        'X-API-Client-Name': headerText(name),
      },
      body: `{"event":${JSON.stringify(event)},"data":${data}}`,
      signal: AbortSignal.timeout(10_000),
    });
  } catch {
    throw new Error('No answer from the server. The message may not have arrived.');
  }
  if (response.ok) return;
  const answer = await response.json().catch(() => null);
  throw new Error(`Not published: ${answer?.error ?? `the server answered ${response.status}`}`);
}

/**
 * @param {string} path
 * @param {Record<string, string>} query browsers let a page set no header on a WebSocket, so the key goes here
 */
export function socketAddress(path, query) {
  const url = address(path);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  url.search = new URLSearchParams(query).toString();
  return url.href;
}

/**
 * The server's rule for a client name.
 *
 * @param {string} name
 * @returns {string} what is wrong with it, or ''
 */
export function faultOfName(name) {
  if (name === '') return 'A client has a name.';
  if ([...name].length > 128) return 'At most 128 characters.';
  if (!headerSafe(name)) return 'No control characters.';
  return '';
}

/** @param {string} path */
function address(path) {
  return new URL(path, document.baseURI);
}

/** @param {string} text */
function headerSafe(text) {
  return !/[\u0000-\u001f\u007f-\u009f]/.test(text);
}

/**
 * fetch sends each character of a header as one byte and refuses those above U+00FF; the server reads UTF-8.
 *
 * @param {string} text
 */
function headerText(text) {
  return Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join('');
}
