// Try it: publish a message, subscribe to events and watch what arrives.

import {faultOfName, knock, publish, socketAddress} from './api.js';
import {count} from './format.js';
import {LiveSocket} from './livesocket.js';
import {setText} from './rows.js';

const slot = 'picloud.name';
const mostMessages = 200; // kept on the page
const mostCharacters = 4000; // shown of one message
const silence = 30_000; // ms; see LiveSocket

/**
 * @typedef {{action: string, event?: string, data?: unknown, created_at?: string, client_name?: string, id?: unknown,
 *   error?: string}} Delivery
 */

export class TryIt {
  #key = '';
  #socket;
  /** @type {Map<string, {id: number, chip: HTMLElement}>} the watched events */
  #watched = new Map();
  #lastId = 0;
  #received = 0;
  /** @type {Delivery[]} arrived, and not yet on the page */
  #fresh = [];

  /** @param {() => void} keyRefused called when the server no longer takes the key */
  constructor(keyRefused) {
    this.#socket = new LiveSocket({
      address: () => socketAddress('subscribe', {apiKey: this.#key, clientName: this.#name()}),
      received: (text) => this.#receive(text),
      changed: (state, reason) => this.#changed(state, reason),
      refused: async () => {
        const verdict = await knock(this.#key);
        if (verdict.wrongKey) keyRefused();
        return {
          stop: verdict.wrongKey,
          wait: verdict.wait,
          reason: verdict.reason || 'The connection did not open: the server may be full.',
        };
      },
      silence,
      // Subscribing twice is subscribing once, so asking again is a question without a side effect.
      poke: () => this.#subscription(this.#watched.keys().next().value ?? ''),
    });
    input('name').value = keptName();
    input('name').onchange = () => this.#rename();
    byId('publish').onsubmit = (submit) => {
      submit.preventDefault();
      this.#publish();
    };
    byId('watch').onsubmit = (submit) => {
      submit.preventDefault();
      this.watch(input('watch-event').value);
    };
    byId('clear').onclick = () => this.#clearMessages();
    this.#clearMessages();
  }

  /** @param {string} key */
  start(key) {
    this.#key = key;
  }

  stop() {
    this.#socket.close();
    this.#watched.clear();
    byId('watched').replaceChildren();
    setText(byId('watch-state'), '');
    setText(byId('publish-result'), '');
    this.#clearMessages();
    this.#key = '';
  }

  /** @param {string} event */
  watch(event) {
    if (this.#watched.has(event)) {
      setText(byId('watch-state'), `Already watching ${event}.`);
      return;
    }
    if (!this.#rename()) return;
    this.#watched.set(event, {id: 0, chip: this.#chip(event)});
    if (this.#watched.size === 1) this.#socket.open();
    else this.#socket.send(this.#subscription(event));
  }

  /** @param {string} event */
  #unwatch(event) {
    const chip = this.#watched.get(event)?.chip;
    const next = chip?.nextElementSibling ?? chip?.previousElementSibling;
    this.#drop(event);
    this.#socket.send(JSON.stringify({action: 'unsubscribe', event}));
    // The button that had the focus is gone with its chip.
    (next?.querySelector('button') ?? input('watch-event')).focus();
  }

  /** @param {string} event */
  #drop(event) {
    this.#watched.get(event)?.chip.remove();
    this.#watched.delete(event);
    setText(byId('watch-state'), '');
    // Who watches nothing is no client, and not in the list of connections.
    if (this.#watched.size === 0) this.#socket.close();
  }

  /**
   * @param {string} event
   * @returns {string} the message that subscribes to it; the answer will carry its id
   */
  #subscription(event) {
    const id = ++this.#lastId;
    const watched = this.#watched.get(event);
    if (watched) watched.id = id;
    return JSON.stringify({action: 'subscribe', event, id});
  }

  /**
   * @param {string} state
   * @param {string} reason
   */
  #changed(state, reason) {
    if (state === 'open') {
      for (const event of this.#watched.keys()) this.#socket.send(this.#subscription(event));
      setText(byId('watch-state'), '');
    } else {
      for (const {chip} of this.#watched.values()) chip.classList.add('waiting');
      setText(byId('watch-state'), state === 'away' ? `${reason} Trying again…` : 'Connecting…');
    }
  }

  /** @param {string} text */
  #receive(text) {
    const message = /** @type {Delivery} */ (parseExactly(text));
    if (message.action === 'publish') {
      this.#received++;
      this.#fresh.push(message);
      if (this.#fresh.length > mostMessages) this.#fresh.shift();
      if (this.#fresh.length === 1) requestAnimationFrame(() => this.#showFresh());
      return;
    }
    for (const [event, {id, chip}] of this.#watched) {
      if (id !== message.id) continue;
      if (message.action === 'ack') {
        chip.classList.remove('waiting');
      } else {
        this.#drop(event);
        setText(byId('watch-state'), `Not subscribed: ${message.error}`);
      }
      return;
    }
    if (message.action === 'error') setText(byId('watch-state'), message.error ?? '');
  }

  /** Many messages may come between two frames; what could not be seen anyway is only counted. */
  #showFresh() {
    const list = byId('messages');
    list.prepend(...this.#fresh.splice(0).reverse().map(messageItem));
    while (list.childElementCount > mostMessages) list.lastElementChild?.remove();
    setText(byId('messages-count'), this.#received > mostMessages
      ? `${count(this.#received)}, the last ${mostMessages} shown`
      : count(this.#received));
    byId('messages-note').hidden = true;
    list.hidden = false;
  }

  #clearMessages() {
    this.#received = 0;
    byId('messages').replaceChildren();
    byId('messages').hidden = true;
    byId('messages-note').hidden = false;
    setText(byId('messages-count'), '');
  }

  async #publish() {
    const result = byId('publish-result');
    result.className = '';
    setText(result, '');
    if (!this.#rename()) return;
    let data = input('publish-data').value;
    if (input('as-json').checked) {
      try {
        JSON.parse(data);
      } catch (err) {
        result.className = 'bad';
        setText(result, `Not JSON: ${err instanceof Error ? err.message : err}`);
        return;
      }
    } else {
      data = JSON.stringify(data);
    }
    const event = input('publish-event').value;
    try {
      await publish({key: this.#key, name: this.#name(), event, data});
      result.className = 'good';
      const hint = this.#watched.has(event) ? '' : ` Subscribe to ${event} to see it arrive.`;
      setText(result, `Published at ${clock.format(new Date())}.${hint}`);
    } catch (err) {
      result.className = 'bad';
      setText(result, err instanceof Error ? err.message : String(err));
    }
  }

  #name() {
    return input('name').value.trim();
  }

  #usedName = '';

  /**
   * Takes over the name as it stands in its field.
   *
   * @returns {boolean} false when the server would not take it
   */
  #rename() {
    const fault = faultOfName(this.#name());
    setText(byId('name-error'), fault);
    input('name').setAttribute('aria-invalid', String(fault !== ''));
    if (fault) return false;
    if (this.#name() !== this.#usedName) {
      this.#usedName = this.#name();
      keepName(this.#usedName);
      this.#socket.renew();
    }
    return true;
  }

  /** @param {string} event */
  #chip(event) {
    const chip = document.createElement('li');
    chip.className = 'waiting';
    const name = document.createElement('span');
    name.textContent = event;
    const stop = document.createElement('button');
    stop.type = 'button';
    stop.className = 'plain';
    stop.textContent = '×';
    stop.setAttribute('aria-label', `Stop watching ${event}`);
    stop.title = 'Unsubscribe';
    stop.onclick = () => this.#unwatch(event);
    chip.append(name, stop);
    byId('watched').append(chip);
    return chip;
  }
}

const clock = new Intl.DateTimeFormat(undefined, {
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  hourCycle: 'h23',
});

/**
 * @param {Delivery} message
 * @returns {HTMLElement}
 */
function messageItem({event = '', data = '', created_at = '', client_name = ''}) {
  const item = document.createElement('li');
  const time = document.createElement('time');
  time.dateTime = created_at;
  time.title = created_at;
  const at = new Date(created_at);
  time.textContent = Number.isNaN(at.getTime()) ? '' : clock.format(at);
  const what = document.createElement('strong');
  what.textContent = event;
  const who = document.createElement('span');
  who.className = 'quiet';
  who.textContent = client_name;
  const body = document.createElement('pre');
  const isText = typeof data === 'string';
  const whole = isText ? data : JSON.stringify(data);
  body.textContent = whole.length > mostCharacters
    ? `${whole.slice(0, mostCharacters)}… (${count(whole.length)} characters)`
    : whole;
  if (!isText) {
    const tag = document.createElement('span');
    tag.className = 'tag';
    tag.textContent = 'JSON';
    item.append(time, what, who, tag, body);
  } else {
    item.append(time, what, who, body);
  }
  return item;
}

/**
 * JSON.parse, except that where the browser can, a number that JavaScript would change (a long id) keeps its digits
 * for JSON.stringify.
 *
 * @param {string} text
 */
function parseExactly(text) {
  const raw = /** @type {{rawJSON?: (source: string) => unknown}} */ (JSON).rawJSON;
  if (!raw) return JSON.parse(text);
  /** @type {(key: string, value: unknown, context?: {source?: string}) => unknown} */
  const revive = (key, value, context) =>
    typeof value === 'number' && context?.source && String(value) !== context.source ? raw(context.source) : value;
  return JSON.parse(text, revive);
}

function keptName() {
  try {
    return localStorage.getItem(slot) || 'Dashboard';
  } catch {
    return 'Dashboard';
  }
}

/** @param {string} name */
function keepName(name) {
  try {
    localStorage.setItem(slot, name);
  } catch {
    // Asked again next time.
  }
}

/** @param {string} id */
function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/** @param {string} id */
function input(id) {
  return /** @type {HTMLInputElement} */ (document.getElementById(id));
}
