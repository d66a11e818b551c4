// Who is connected and what flows, from the snapshots of the info route.

import {count, rate, some, span} from './format.js';
import {Rows, setText, tableRow} from './rows.js';

const mostRows = 500; // shown of each table
const mostNames = 4; // shown in one cell

/**
 * @typedef {{client_name: string, ip_address: string, connected_at: string}} Connection
 * @typedef {{name: string, connections: Connection[]}} Subscription
 * @typedef {object} Server beside the seed's shape, so each may be missing
 * @property {string} [version]
 * @property {number} [uptime_seconds]
 * @property {number} [max_connections]
 * @property {number} [published] since the start, like the next three
 * @property {number} [delivered]
 * @property {number} [let_go]
 * @property {number} [wrong_keys]
 * @typedef {{subscriptions: Subscription[], all_connections: Connection[], created_at: string,
 *   server?: Server}} Snapshot
 * @typedef {{connection: Connection, events: string[], seconds: number}} ConnectionRow
 */

export class Overview {
  #connections;
  #events;
  /** @type {{at: number, published?: number, delivered?: number} | null} the counters of the last snapshot */
  #before = null;

  /** @param {(event: string) => void} watch called when someone wants to see an event's messages */
  constructor(watch) {
    this.#connections = new Rows(byId('connections'), makeConnection, updateConnection);
    this.#events = new Rows(byId('events'), (item) => makeEvent(item, watch), updateEvent);
  }

  /** @param {Snapshot} snapshot */
  show(snapshot) {
    this.#showConnections(snapshot);
    this.#showEvents(snapshot);
    this.#showFigures(snapshot);
  }

  clear() {
    this.#connections.show(new Map());
    this.#events.show(new Map());
    this.#before = null;
    for (const figure of ['connections', 'events', 'published', 'delivered']) setText(byId(`${figure}-figure`), '–');
    for (const id of ['connections-note', 'events-note', 'server']) setText(byId(id), '');
  }

  /** @param {Snapshot} snapshot */
  #showConnections({all_connections: all, subscriptions, created_at}) {
    // A snapshot names a connection by what is known of it. On the local socket that may be the same for two, which
    // then share their list of events; the number keeps their rows apart.
    /** @type {Map<string, string[]>} */
    const eventsOf = new Map();
    for (const {name, connections} of subscriptions) {
      for (const connection of connections) {
        const key = keyOf(connection);
        const events = eventsOf.get(key);
        if (events) events.push(name);
        else eventsOf.set(key, [name]);
      }
    }
    /** @type {Map<string, ConnectionRow>} */
    const rows = new Map();
    // Both times are the server's: this browser's clock, or a Pi's before it knows the time, may be years off.
    const now = Date.parse(created_at);
    for (const connection of all.slice(0, mostRows)) {
      const key = keyOf(connection);
      let unique = key;
      for (let n = 2; rows.has(unique); n++) unique = `${key} ${n}`;
      rows.set(unique, {
        connection,
        events: eventsOf.get(key) ?? [],
        seconds: (now - Date.parse(connection.connected_at)) / 1000,
      });
    }
    this.#connections.show(rows);
    setText(byId('connections-note'), note(all.length, 'Nobody is connected yet.'));
  }

  /** @param {Snapshot} snapshot */
  #showEvents({subscriptions}) {
    const shown = subscriptions.slice(0, mostRows);
    this.#events.show(new Map(shown.map((subscription) => [subscription.name, subscription])));
    setText(byId('events-note'), note(subscriptions.length, 'No client has subscribed to an event yet.'));
  }

  /** @param {Snapshot} snapshot */
  #showFigures({all_connections, subscriptions, server = {}}) {
    setText(byId('connections-figure'), count(all_connections.length));
    setText(byId('events-figure'), count(subscriptions.length));
    const after = {at: performance.now(), published: server.published, delivered: server.delivered};
    const seconds = this.#before ? (after.at - this.#before.at) / 1000 : 0;
    setText(byId('published-figure'), perSecond(this.#before?.published, after.published, seconds));
    setText(byId('delivered-figure'), perSecond(this.#before?.delivered, after.delivered, seconds));
    this.#before = after;

    const facts = [];
    if (server.version) facts.push(`PiCloud ${server.version}`);
    if (server.uptime_seconds !== undefined) facts.push(`up ${span(server.uptime_seconds)}`);
    if (server.max_connections) facts.push(`room for ${count(server.max_connections)} connections`);
    if (server.published) facts.push(`${count(server.published)} published`);
    if (server.delivered) facts.push(`${count(server.delivered)} delivered`);
    if (server.let_go) facts.push(`let go for reading too slowly: ${count(server.let_go)}`);
    if (server.wrong_keys) facts.push(`wrong keys: ${count(server.wrong_keys)}`);
    setText(byId('server'), facts.join(' · '));
  }
}

/** @returns {HTMLTableRowElement} */
function makeConnection() {
  return tableRow(['client', 'address', 'subscribed', 'for end']);
}

/**
 * @param {HTMLElement} row
 * @param {ConnectionRow} item
 */
function updateConnection(row, {connection, events, seconds}) {
  const [client, address, subscribed, since] = row.children;
  setText(client, connection.client_name || '(no name)');
  setText(address, connection.ip_address);
  setText(subscribed, some(events, mostNames));
  setText(since, span(seconds));
  since.setAttribute('title', `since ${new Date(connection.connected_at).toLocaleString()}`);
}

/**
 * @param {Subscription} subscription
 * @param {(event: string) => void} watch
 */
function makeEvent({name}, watch) {
  const row = tableRow(['event', 'subscribers', 'watch end']);
  row.cells[0].textContent = name;
  const number = document.createElement('strong');
  const names = document.createElement('span');
  names.className = 'quiet';
  row.cells[1].append(number, ' ', names);
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'plain';
  button.textContent = 'Watch';
  button.setAttribute('aria-label', `Watch ${name}`);
  button.onclick = () => watch(name);
  row.cells[2].append(button);
  return row;
}

/**
 * @param {HTMLElement} row
 * @param {Subscription} subscription
 */
function updateEvent(row, {connections}) {
  const [number, names] = row.children[1].children;
  setText(number, count(connections.length));
  setText(names, some(connections.map((connection) => connection.client_name || '(no name)'), mostNames));
}

/** @param {Connection} connection */
function keyOf({client_name, ip_address, connected_at}) {
  return `${ip_address} ${connected_at} ${client_name}`;
}

/**
 * @param {number} length
 * @param {string} whenEmpty
 */
function note(length, whenEmpty) {
  if (length === 0) return whenEmpty;
  return length > mostRows ? `The first ${count(mostRows)} of ${count(length)}.` : '';
}

/**
 * @param {number | undefined} before
 * @param {number | undefined} after
 * @param {number} seconds
 */
function perSecond(before, after, seconds) {
  // A counter that fell is a restarted server's.
  if (before === undefined || after === undefined || after < before || seconds <= 0) return '–';
  return rate((after - before) / seconds);
}

/** @param {string} id */
function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}
