// PiCloud for web pages: publish and subscribe, over a connection that comes back by itself.
//
//   import {PiCloud} from 'http://raspberrypi.local:9000/picloud.js';
//
//   const cloud = new PiCloud('http://raspberrypi.local:9000', {key: '…', name: 'Hall display'});
//   cloud.subscribe('temperature', (data, message) => console.log(message.client_name, data));
//   await cloud.publish('lamp', {on: true});
//
// What is published while the connection is away is kept, up to 1 MiB, and sent when it is back. What others publish
// meanwhile is missed: the server stores nothing.

const firstPause = 500; // ms; the longest that the first pause may be, doubled after each attempt that fails
const longestPause = 30_000; // ms
const steadyAfter = 10_000; // ms that a connection must have lasted for the pauses to start small again
const attemptLimit = 10_000; // ms an attempt may take; a browser's own limit is minutes
const mostUnconfirmed = 1 << 20; // characters of messages that the server has not confirmed

/** @typedef {'connecting' | 'open' | 'away' | 'closed'} State 'away' keeps trying, 'closed' does not */

/**
 * @typedef {object} Message what a subscriber gets
 * @property {string} event
 * @property {any} data as it was published
 * @property {string} created_at when the server got it, RFC 3339 in UTC
 * @property {string} client_name who published it
 */

/**
 * @typedef {object} Subscription
 * @property {string} event
 * @property {Promise<void>} ready resolves once every message of the event arrives; rejects with a PiCloudError when the
 *   server refuses, or when it is closed first
 * @property {() => void} close ends it; its handler is not called any more
 */

/**
 * @typedef {object} Options
 * @property {string} key
 * @property {string} name the client name that the others see: 1 to 128 characters
 * @property {(text: string) => any} [parse] parses a message instead of JSON.parse, which loses the last digits of long
 *   numbers
 */

/**
 * What a promise is rejected with. Its message is for people. Its code says what became of the message:
 *
 * - `refused`: the server did not take it.
 * - `unconfirmed`: the connection broke before the server's answer. It may have been published or not.
 * - `full`: too much is waiting for the server already. It was not sent.
 * - `closed`: the client is closed, by close() or because the server rejected it. It was not sent.
 */
export class PiCloudError extends Error {
  /**
   * @param {'refused' | 'unconfirmed' | 'full' | 'closed'} code
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.name = 'PiCloudError';
    this.code = code;
  }
}

/**
 * A client of one server. It dispatches `state` events; state and reason say the rest. It is open once it is connected
 * and has renewed its subscriptions.
 */
export class PiCloud extends EventTarget {
  /** @type {State} */
  state = 'connecting';
  /** Why it is away or closed, for people; '' otherwise. */
  reason = '';

  #line;
  #parse;
  #lastId = 0;
  #resuming = 0; // id of the last subscription to renew before the state is open; 0: none
  /** @type {Map<string, Set<Subscriber>>} by event */
  #subscribers = new Map();
  /** @type {Map<number, {event: string, waiting: Subscriber[]}>} subscriptions that wait for their ack, by id */
  #subscribing = new Map();
  /** @type {Map<number, Publish>} unconfirmed publishes by id, in order */
  #publishing = new Map();
  #unconfirmed = 0; // characters of them

  /**
   * @param {string | URL} url of the server, such as http://raspberrypi.local:9000
   * @param {Options} options
   */
  constructor(url, {key, name, parse = JSON.parse}) {
    super();
    const fault = faultOfName(name);
    if (fault) throw new TypeError(`PiCloud: name: ${fault}`);
    this.#parse = parse;
    this.#line = new Line(socketAddress(url, 'subscribe', {apiKey: key, clientName: name}), {
      received: (text) => this.#receive(text),
      changed: (state, reason) => this.#changed(state, reason),
      // Sent only when nothing is heard; neither action changes anything.
      poke: () => {
        const [event] = this.#subscribers.keys();
        return JSON.stringify({action: event === undefined ? 'unsubscribe:all' : 'subscribe', event, id: ++this.#lastId});
      },
      silence: 60_000,
    });
    this.#line.open();
  }

  /**
   * Calls handler with each message of the event from now on, for as long as the page lives, across reconnections. An
   * event may have several handlers.
   *
   * @param {string} event 1 to 255 bytes of UTF-8
   * @param {(data: any, message: Message) => void} handler
   * @returns {Subscription}
   */
  subscribe(event, handler) {
    const subscriber = new Subscriber(handler);
    const subscription = {event, ready: subscriber.ready, close: () => this.#end(event, subscriber)};
    if (this.state === 'closed') {
      subscriber.reject(new PiCloudError('closed', this.reason));
      return subscription;
    }
    const others = this.#subscribers.get(event);
    if (others) {
      others.add(subscriber);
      // They may still be waiting for the answer; then this one waits as well.
      const request = [...this.#subscribing.values()].find((waiting) => waiting.event === event);
      if (request) request.waiting.push(subscriber);
      else if (this.#line.isOpen) subscriber.resolve();
    } else {
      this.#subscribers.set(event, new Set([subscriber]));
      if (this.#line.isOpen) this.#sendSubscribe(event);
    }
    return subscription;
  }

  /**
   * Publishes once. While the connection is away it waits until it is back.
   *
   * @param {string} event 1 to 255 bytes of UTF-8
   * @param {any} [data] anything that JSON can represent
   * @returns {Promise<void>} resolves when every current subscriber has the message in its queue; rejects with a
   *   PiCloudError
   */
  async publish(event, data) {
    if (this.state === 'closed') throw new PiCloudError('closed', this.reason);
    const id = ++this.#lastId;
    const text = JSON.stringify({action: 'publish', event, data, id});
    if (this.#unconfirmed + text.length > mostUnconfirmed && this.#publishing.size > 0) {
      throw new PiCloudError('full', 'Too much is waiting for the server already: wait for what was published before.');
    }
    this.#unconfirmed += text.length;
    return new Promise((resolve, reject) => {
      this.#publishing.set(id, {text, sent: this.#line.send(text), resolve, reject});
    });
  }

  /** Ends the connection for good. What is waiting is rejected; no handler is called any more. */
  close() {
    if (this.state === 'closed') return;
    this.#line.close();
    this.#changed('closed', 'The client is closed.');
  }

  /** @param {string} event */
  #sendSubscribe(event) {
    const id = ++this.#lastId;
    this.#subscribing.set(id, {event, waiting: [...this.#subscribers.get(event) ?? []]});
    this.#line.send(JSON.stringify({action: 'subscribe', event, id}));
    return id;
  }

  /**
   * @param {string} event
   * @param {Subscriber} subscriber
   */
  #end(event, subscriber) {
    const all = this.#subscribers.get(event);
    if (!all?.delete(subscriber)) return;
    subscriber.reject(new PiCloudError('closed', 'The subscription was closed.'));
    if (all.size > 0) return;
    this.#subscribers.delete(event);
    this.#line.send(JSON.stringify({action: 'unsubscribe', event}));
  }

  /**
   * @param {State} state
   * @param {string} reason
   */
  #changed(state, reason) {
    this.#subscribing.clear();
    this.#resuming = 0;
    if (state === 'open') {
      for (const event of this.#subscribers.keys()) this.#resuming = this.#sendSubscribe(event);
      for (const publish of this.#publishing.values()) publish.sent = this.#line.send(publish.text);
      if (this.#resuming) return;
    } else {
      for (const [id, {sent}] of this.#publishing) {
        if (sent) {
          this.#settle(id, new PiCloudError('unconfirmed', `${reason} The message may have been published or not.`));
        } else if (state === 'closed') {
          this.#settle(id, new PiCloudError('closed', reason));
        }
      }
    }
    if (state === 'closed') {
      for (const subscriber of [...this.#subscribers.values()].flatMap((all) => [...all])) {
        subscriber.reject(new PiCloudError('closed', reason));
      }
      this.#subscribers.clear();
    }
    this.#show(state, reason);
  }

  /**
   * @param {State} state
   * @param {string} reason
   */
  #show(state, reason) {
    if (state === this.state && reason === this.reason) return;
    this.state = state;
    this.reason = reason;
    this.dispatchEvent(new Event('state'));
  }

  /** @param {string} text */
  #receive(text) {
    const message = this.#parse(text);
    switch (message.action) {
      case 'publish':
        for (const subscriber of [...this.#subscribers.get(message.event) ?? []]) subscriber.take(message);
        return;
      case 'ack':
      case 'error': {
        const error = message.action === 'error' ? new PiCloudError('refused', message.error) : null;
        this.#settle(message.id, error);
        this.#subscribed(message.id, error);
      }
    }
  }

  /**
   * @param {number} id of a publish; any other id does no harm
   * @param {PiCloudError | null} error
   */
  #settle(id, error) {
    const publish = this.#publishing.get(id);
    if (!publish) return;
    this.#publishing.delete(id);
    this.#unconfirmed -= publish.text.length;
    if (error) publish.reject(error);
    else publish.resolve();
  }

  /**
   * @param {number} id of a subscription; any other id does no harm
   * @param {PiCloudError | null} error
   */
  #subscribed(id, error) {
    const request = this.#subscribing.get(id);
    if (!request) return;
    this.#subscribing.delete(id);
    const all = this.#subscribers.get(request.event);
    for (const subscriber of request.waiting) {
      if (!error) subscriber.resolve();
      // It may have been closed meanwhile. Nobody waits for a renewal, so one that is refused is reported.
      else if (all?.delete(subscriber) && !subscriber.reject(error)) report(error);
    }
    if (all?.size === 0) this.#subscribers.delete(request.event);
    if (id !== this.#resuming) return;
    this.#resuming = 0;
    this.#show('open', '');
  }
}

/** @typedef {{text: string, sent: boolean, resolve: () => void, reject: (error: PiCloudError) => void}} Publish */

/** One handler of one event. */
class Subscriber {
  #handler;
  #settled = false;
  /** @type {() => void} */
  #resolve = () => {};
  /** @type {(error: PiCloudError) => void} */
  #reject = () => {};

  /** @param {(data: any, message: Message) => void} handler */
  constructor(handler) {
    this.#handler = handler;
    /** @type {Promise<void>} */
    this.ready = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.ready.catch(() => {}); // a caller that does not use it need not catch it
  }

  resolve() {
    this.#settled = true;
    this.#resolve();
  }

  /**
   * @param {PiCloudError} error
   * @returns {boolean} false when it was already ready
   */
  reject(error) {
    if (this.#settled) return false;
    this.#settled = true;
    this.#reject(error);
    return true;
  }

  /** @param {Message} message */
  take(message) {
    try {
      this.#handler(message.data, message);
    } catch (err) {
      report(err); // the other handlers must still run
    }
  }
}

/**
 * A WebSocket that comes back: after a server's restart, a lost network, a laptop's sleep. PiCloud is built on it, and
 * so is the page that shows the info route's snapshots.
 */
export class Line {
  #address;
  #options;
  /** @type {WebSocket | null} */
  #socket = null;
  #live = false; // between open() and close()
  #away = false;
  #turn = 0; // counts attempts and closings, so that work begun before one can tell that it is stale
  #attempts = 0; // since the last connection that lasted
  #began = 0; // ms, when the current attempt began or the current connection opened
  #heard = 0; // ms, the last sign of life
  #poked = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} of the next attempt */
  #pause;
  #asked = false; // the server itself asked for that pause
  /** @type {ReturnType<typeof setInterval> | undefined} watches for silence */
  #watch;

  /**
   * @param {URL} address from socketAddress
   * @param {object} options
   * @param {(text: string) => void} options.received
   * @param {(state: State, reason: string, status: number) => void} options.changed the reason is for people, and comes
   *   with 'away' and 'closed', and so does the status of the server's answer, 0 if there was none; not called for
   *   close()
   * @param {number} options.silence ms without a message after which the connection counts as dead: a page cannot see
   *   pings, and a peer whose plug was pulled never says goodbye
   * @param {() => string} [options.poke] a message that makes the server answer, sent after half that silence; needed
   *   where silence is normal
   */
  constructor(address, options) {
    this.#address = address;
    this.#options = options;
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  open() {
    if (this.#live) return;
    this.#live = true;
    this.#attempts = 0;
    this.#watch = setInterval(() => this.#check(), 1000);
    globalThis.addEventListener?.('online', this.#hurry);
    globalThis.document?.addEventListener('visibilitychange', this.#hurry);
    this.#connect();
  }

  /** Afterwards no callback is called. */
  close() {
    this.#live = false;
    this.#away = false;
    this.#turn++;
    clearInterval(this.#watch);
    clearTimeout(this.#pause);
    this.#pause = undefined;
    globalThis.removeEventListener?.('online', this.#hurry);
    globalThis.document?.removeEventListener('visibilitychange', this.#hurry);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  /**
   * @param {string} text
   * @returns {boolean} false when there is no connection; the text is then dropped
   */
  send(text) {
    if (!this.isOpen) return false;
    this.#socket?.send(text);
    return true;
  }

  #connect() {
    this.#turn++;
    clearTimeout(this.#pause);
    this.#pause = undefined;
    this.#began = this.#heard = performance.now();
    this.#poked = false;
    let socket;
    try {
      socket = new WebSocket(this.#address);
    } catch {
      this.#giveUp('The browser does not allow it: a page from https can only use a server with TLS.');
      return;
    }
    this.#socket = socket;
    let opened = false;
    // Each handler checks that its socket is still the current one: a replaced socket closes later.
    socket.onopen = () => {
      if (socket !== this.#socket) return;
      opened = true;
      this.#away = false;
      this.#began = this.#heard = performance.now();
      this.#options.changed('open', '', 0);
    };
    socket.onmessage = (message) => {
      if (socket !== this.#socket) return;
      this.#heard = performance.now();
      this.#poked = false;
      this.#options.received(String(message.data));
    };
    socket.onclose = (close) => {
      if (socket === this.#socket) this.#lost(opened, close.code);
    };
    socket.onerror = () => {}; // onclose follows
    // While it is away another attempt is no news.
    if (!this.#away) this.#options.changed('connecting', '', 0);
  }

  /**
   * @param {boolean} opened whether the connection had been open
   * @param {number} code the close code; 0 when this side ended it
   */
  async #lost(opened, code) {
    this.#socket = null;
    const turn = ++this.#turn;
    if (opened && performance.now() - this.#began > steadyAfter) this.#attempts = 0;
    let reason = goodbyes[code] ?? 'The connection was lost.';
    let wait = 0;
    let status = 0;
    if (faults.includes(code)) {
      this.#giveUp(reason);
      return;
    }
    if (!opened) {
      // Browsers do not say why. The same address without an upgrade does, and unlike the info it costs the server no
      // snapshot: it checks key and name first and then answers 426.
      const url = new URL(this.#address);
      url.protocol = url.protocol === 'wss:' ? 'https:' : 'http:';
      const answer = await ask(url);
      if (turn !== this.#turn) return;
      if (answer.final) {
        this.#giveUp(answer.reason, answer.status);
        return;
      }
      ({reason, wait, status} = answer);
    }
    // The jitter keeps the clients of a restarted server from all coming back in the same moment.
    const pause = Math.min(longestPause, firstPause * 2 ** this.#attempts) * Math.random();
    this.#attempts++;
    this.#asked = wait > 0;
    this.#pause = setTimeout(() => this.#connect(), Math.max(pause, wait * 1000));
    this.#away = true;
    this.#options.changed('away', reason, status);
  }

  /**
   * @param {string} reason
   * @param {number} [status]
   */
  #giveUp(reason, status = 0) {
    this.close();
    this.#options.changed('closed', reason, status);
  }

  /** The network is back, or someone is looking at the page again: no need to sit out the pause. */
  #hurry = () => {
    if (this.#pause !== undefined && !this.#asked && globalThis.document?.visibilityState !== 'hidden') this.#connect();
  };

  #check() {
    const socket = this.#socket;
    if (!socket) return;
    const silent = performance.now() - this.#heard;
    const {silence, poke} = this.#options;
    if (silent > (this.isOpen ? silence : attemptLimit)) {
      const opened = this.isOpen;
      socket.close();
      this.#lost(opened, 0);
    } else if (this.isOpen && poke && !this.#poked && silent > silence / 2) {
      this.#poked = true;
      this.send(poke());
    }
  }
}

// Close codes after which the same client would only fail again.
const faults = [1002, 1007, 1008];

/** @type {Record<number, string>} what the server means by closing */
const goodbyes = {
  1001: 'The server has stopped.',
  1002: 'The server has ended the connection: this client broke the protocol.',
  1007: 'The server has ended the connection: this client sent what is not text.',
  1008: 'The server has ended the connection: a limit was passed.',
  1009: 'The server has ended the connection: a message was over its limit.',
  1011: 'The server has ended the connection: it failed at a message, see its log.',
  1012: 'The server is restarting.',
  1013: 'This client reads too slowly; the server closed it.',
};

/**
 * @typedef {object} Answer to a request
 * @property {number} status 0: none came
 * @property {boolean} final the same request would be refused again
 * @property {string} reason why it was refused, if it was, for people
 * @property {number} wait before the next attempt, in seconds, at the least
 * @property {Response | null} response
 */

/**
 * Makes a request, and explains the answer.
 *
 * @param {URL} url
 * @param {RequestInit} [options]
 * @returns {Promise<Answer>}
 */
export async function ask(url, options = {}) {
  let response;
  try {
    response = await fetch(url, {cache: 'no-store', signal: AbortSignal.timeout(attemptLimit), ...options});
  } catch {
    return {status: 0, final: false, reason: 'The server cannot be reached.', wait: 0, response: null};
  }
  const {status} = response;
  const wait = Number(response.headers.get('Retry-After')) || (status === 429 ? 60 : 0);
  let final = false;
  let reason = `The server answers ${status}.`;
  switch (status) {
    case 400: {
      const answer = await response.json().catch(() => ({}));
      final = true;
      reason = `The server refuses this client: ${answer.error}.`;
      break;
    }
    case 401:
      final = true;
      reason = 'The server does not know this key.';
      break;
    case 426:
      reason = 'The server answers, but has no room for a connection, or a proxy stands in between.';
      break;
    case 429:
      reason = `Too many wrong keys came from this address: the next try is possible in ${wait} s.`;
      break;
    case 503:
      reason = 'The server is full or stopping.';
  }
  return {status, final, reason, wait, response};
}

/**
 * @param {string | URL} url of the server; http, https, ws or wss
 * @param {string} route
 * @param {Record<string, string>} query browsers let a page set no header on a WebSocket, so the key goes here
 */
export function socketAddress(url, route, query) {
  const address = new URL(url, globalThis.location?.href);
  if (!address.pathname.endsWith('/')) address.pathname += '/';
  address.pathname += route;
  address.protocol = /^(https|wss):$/.test(address.protocol) ? 'wss:' : 'ws:';
  address.search = new URLSearchParams(query).toString();
  address.hash = '';
  return address;
}

/**
 * The server's rule for a client name.
 *
 * @param {string} name
 * @returns {string} what is wrong with it, or ''
 */
export function faultOfName(name) {
  if (!name) return 'A client has a name.';
  if ([...name].length > 128) return 'At most 128 characters.';
  if (/[\u0000-\u001f\u007f-\u009f]/.test(name)) return 'No control characters.';
  return '';
}

/**
 * Makes the browser report an error as if nobody had caught it.
 *
 * @param {unknown} error
 */
function report(error) {
  (globalThis.reportError ?? console.error)(error);
}
