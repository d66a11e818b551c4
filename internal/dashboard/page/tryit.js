// Try it: publish a message, subscribe to events and watch what arrives, and the same for other programs.

import {byId, copies, input, make, setText} from './dom.js';
import {count, parseExactly, timeOfDay, visible} from './format.js';
import {faultOfName, PiCloud, PiCloudError} from './picloud.js';
import {publishing, subscribing} from './snippets.js';

const slot = 'picloud.name';
const mostMessages = 200; // kept on the page
const mostCharacters = 4000; // shown of one message
const server = new URL('.', document.baseURI).href.replace(/\/$/, '');

/** @typedef {import('./picloud.js').Message} Message */

export class TryIt {
  #key = '';
  /** @type {PiCloud | null} there while it is needed */
  #cloud = null;
  #publishing = 0; // publishes in progress
  /** @type {Map<string, {chip: HTMLElement, close: () => void}>} the watched events */
  #watched = new Map();
  #usedName = '';
  #received = 0;
  /** @type {Message[]} arrived but not yet on the page */
  #fresh = [];
  #paused = false;

  constructor() {
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
    byId('pause').onclick = () => this.#pause(!this.#paused);
    input('pretty').onchange = () => {
      for (const item of byId('messages').children) item.dispatchEvent(new Event('pretty'));
    };
    byId('try').addEventListener('input', () => this.#showCode());
    for (const button of byId('try').querySelectorAll('button')) {
      const {copy: source} = button.dataset;
      if (source) copies(button, () => byId(source).textContent ?? '');
    }
    this.#clearMessages();
    this.#showCode();
  }

  /** @param {string} key */
  start(key) {
    this.#key = key;
  }

  stop() {
    this.#disconnect();
    this.#watched.clear();
    byId('watched').replaceChildren();
    setText(byId('watch-state'), '');
    setText(byId('publish-result'), '');
    this.#pause(false);
    this.#clearMessages();
    this.#key = '';
  }

  /** @param {string} event */
  watch(event) {
    input('watch-event').value = event;
    this.#showCode();
    if (this.#watched.has(event)) {
      setText(byId('watch-state'), `Already watching ${visible(event)}.`);
      return;
    }
    if (!this.#rename()) return;
    this.#subscribe(event, this.#chip(event));
  }

  /**
   * @param {string} event
   * @param {HTMLElement} chip
   */
  async #subscribe(event, chip) {
    const {ready, close} = this.#connect().subscribe(event, (data, message) => this.#receive(message));
    this.#watched.set(event, {chip, close});
    try {
      await ready;
      chip.classList.remove('waiting');
    } catch (err) {
      // If it was closed, that was done here, or the reason is already shown.
      if (!(err instanceof PiCloudError) || err.code !== 'refused') return;
      this.#drop(event);
      setText(byId('watch-state'), `Not subscribed: ${err.message}`);
    }
  }

  /** @param {string} event */
  #unwatch(event) {
    const chip = this.#watched.get(event)?.chip;
    const next = chip?.nextElementSibling ?? chip?.previousElementSibling;
    this.#drop(event);
    // The button that had the focus has gone with its chip.
    (next?.querySelector('button') ?? input('watch-event')).focus();
  }

  /** @param {string} event */
  #drop(event) {
    const watched = this.#watched.get(event);
    watched?.chip.remove();
    watched?.close();
    this.#watched.delete(event);
    setText(byId('watch-state'), '');
    this.#rest();
  }

  /** Disconnects when the page neither watches nor publishes. */
  #rest() {
    if (this.#publishing === 0 && this.#watched.size === 0) this.#disconnect();
  }

  /** @returns {PiCloud} */
  #connect() {
    if (this.#cloud) return this.#cloud;
    const cloud = new PiCloud(server, {key: this.#key, name: this.#name(), parse: parseExactly});
    cloud.addEventListener('state', () => {
      if (cloud !== this.#cloud) return;
      const open = cloud.state === 'open';
      for (const {chip} of this.#watched.values()) chip.classList.toggle('waiting', !open);
      setText(byId('watch-state'), open ? '' : cloud.state === 'away' ? `${cloud.reason} Trying again…` : cloud.reason);
    });
    this.#cloud = cloud;
    return cloud;
  }

  #disconnect() {
    const cloud = this.#cloud;
    this.#cloud = null;
    cloud?.close();
  }

  /** Reconnects under the name in the field. */
  #reconnect() {
    this.#disconnect();
    for (const [event, {chip}] of [...this.#watched]) {
      chip.classList.add('waiting');
      this.#subscribe(event, chip);
    }
  }

  /** @param {Message} message */
  #receive(message) {
    this.#received++;
    this.#fresh.push(message);
    if (this.#fresh.length > mostMessages) this.#fresh.shift();
    if (this.#paused) setText(byId('pause'), `Resume (${count(this.#fresh.length)})`);
    else if (this.#fresh.length === 1) requestAnimationFrame(() => this.#showFresh());
  }

  /** Many messages may come between two frames; messages that could not be seen anyway are only counted. */
  #showFresh() {
    if (this.#paused || this.#fresh.length === 0) return;
    const list = byId('messages');
    list.prepend(...this.#fresh.splice(0).reverse().map(messageItem));
    while (list.childElementCount > mostMessages) list.lastElementChild?.remove();
    setText(byId('messages-count'), this.#received > mostMessages
      ? `${count(this.#received)}, the last ${mostMessages} shown`
      : count(this.#received));
    byId('messages-note').hidden = true;
    list.hidden = false;
  }

  /** @param {boolean} paused */
  #pause(paused) {
    this.#paused = paused;
    byId('pause').setAttribute('aria-pressed', String(paused));
    setText(byId('pause'), paused ? 'Resume' : 'Pause');
    if (!paused) this.#showFresh();
  }

  #clearMessages() {
    this.#received = 0;
    this.#fresh = [];
    if (this.#paused) setText(byId('pause'), 'Resume');
    byId('messages').replaceChildren();
    byId('messages').hidden = true;
    byId('messages-note').hidden = false;
    setText(byId('messages-count'), '');
  }

  async #publish() {
    const result = byId('publish-result');
    result.className = 'quiet';
    setText(result, '');
    if (!this.#rename()) return;
    let data;
    try {
      data = input('as-json').checked ? parseExactly(input('publish-data').value) : input('publish-data').value;
    } catch (err) {
      result.className = 'bad';
      setText(result, `Not JSON: ${err instanceof Error ? err.message : err}`);
      return;
    }
    const event = input('publish-event').value;
    const cloud = this.#connect();
    this.#publishing++;
    if (cloud.state === 'away') setText(result, `${cloud.reason} It will be published when the server is back.`);
    try {
      await cloud.publish(event, data);
      result.className = 'good';
      const hint = this.#watched.has(event) ? '' : ` Subscribe to ${visible(event)} to see it arrive.`;
      setText(result, `Published at ${timeOfDay(new Date())}.${hint}`);
    } catch (err) {
      result.className = 'bad';
      const why = err instanceof Error ? err.message : String(err);
      setText(result, err instanceof PiCloudError && err.code === 'unconfirmed' ? why : `Not published: ${why}`);
    }
    this.#publishing--;
    this.#rest();
  }

  #name() {
    return input('name').value.trim();
  }

  /**
   * Uses the name in the field from now on.
   *
   * @returns {boolean} false when the server would not accept it
   */
  #rename() {
    const fault = faultOfName(this.#name());
    setText(byId('name-error'), fault);
    input('name').setAttribute('aria-invalid', String(fault !== ''));
    if (fault) return false;
    if (this.#name() !== this.#usedName) {
      this.#usedName = this.#name();
      keepName(this.#usedName);
      if (this.#cloud) this.#reconnect();
    }
    return true;
  }

  /** @param {string} event */
  #chip(event) {
    const chip = make('li', 'waiting');
    const stop = make('button', 'plain', '×');
    stop.type = 'button';
    stop.setAttribute('aria-label', `Stop watching ${visible(event)}`);
    stop.title = 'Unsubscribe';
    stop.onclick = () => this.#unwatch(event);
    chip.append(make('span', '', visible(event)), stop);
    byId('watched').append(chip);
    return chip;
  }

  #showCode() {
    const checked = /** @type {HTMLInputElement | null} */ (document.querySelector('#languages input:checked'));
    const language = /** @type {import('./snippets.js').Language} */ (checked?.value);
    byId('key-note').hidden = language === 'javascript';
    const name = this.#name() || 'Dashboard';
    const text = input('publish-data').value;
    let json = JSON.stringify(text);
    if (input('as-json').checked) {
      try {
        json = JSON.stringify(parseExactly(text));
      } catch {
        json = 'null'; // until it is valid JSON
      }
    }
    setText(byId('publish-code'), publishing(language, {server, name, event: input('publish-event').value, json}));
    setText(byId('watch-code'), subscribing(language, {server, name, event: input('watch-event').value}));
  }
}

/**
 * @param {Message} message
 * @returns {HTMLElement}
 */
function messageItem({event, data = '', created_at = '', client_name = ''}) {
  const item = make('li', '');
  const time = make('time', '', timeOfDay(new Date(created_at)));
  time.dateTime = created_at;
  time.title = created_at;
  const isText = typeof data === 'string';
  const body = make('pre', '');
  const whole = () => isText ? data : JSON.stringify(data, null, input('pretty').checked ? 2 : 0);
  const show = () => {
    const text = whole();
    const shown = visible(text.slice(0, mostCharacters), true);
    setText(body, text.length > mostCharacters ? `${shown}… (${count(text.length)} characters)` : shown);
  };
  item.addEventListener('pretty', show);
  show();
  const button = make('button', 'plain', 'Copy');
  button.type = 'button';
  button.setAttribute('aria-label', `Copy the message of ${visible(event)}`);
  copies(button, whole);
  item.append(time, make('strong', '', visible(event)), make('span', 'quiet', visible(client_name)));
  if (!isText) item.append(make('span', 'tag', 'JSON'));
  item.append(button, body);
  return item;
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
    // It is asked for again next time.
  }
}
