// What snapshots say together: rates, from the counters of one snapshot and the next.

import {most} from './chart.js';

/**
 * @typedef {{client_name: string, ip_address: string, connected_at: string}} Connection
 * @typedef {{name: string, connections: Connection[]}} Subscription
 * @typedef {{created_at: string, client_name: string, preview: string, data_bytes: number}} LastMessage
 * @typedef {{subscribers: number, published: number, delivered: number, last: LastMessage | null}} EventTraffic
 * @typedef {{client_name: string, ip_address: string, closed_at: string, reason: string}} SlowClient
 *
 * @typedef {object} Server
 * @property {string} version
 * @property {number} uptime_seconds
 * @property {number} connections
 * @property {number} max_connections
 * @property {number} events
 * @property {number} subscriptions
 * @property {number} published
 * @property {number} delivered
 * @property {number} slow_clients_closed
 * @property {number} wrong_keys
 * @property {number} connection_limit_reached
 * @property {number} kept_over_restart
 * @property {number} lost_over_restart
 * @property {number} port
 * @property {boolean} tls
 * @property {boolean} tls_kept_over_restart
 * @property {string} led
 * @property {string} led_error
 * @property {number} max_message_bytes
 * @property {number} max_queue_bytes
 * @property {number} max_subscriptions
 * @property {number} resident_memory_bytes
 * @property {number} cpu_seconds
 * @property {boolean} truncated the lists have only a part of what there is
 * @property {SlowClient[]} slow_clients_closed_latest
 * @property {EventTraffic[]} event_traffic entry for entry as in subscriptions
 * @property {{published: number, delivered: number, tls_version: string}[]} connection_traffic entry for entry as in all_connections
 *
 * @typedef {{subscriptions: Subscription[], all_connections: Connection[], created_at: string, server: Server}} Snapshot
 *
 * @typedef {{name: string, subscribers: number, rate: number | null, rates: number[], last: LastMessage | null,
 *   age: number}} EventRow age is in seconds, Infinity without a message
 * @typedef {{key: string, name: string, address: string, at: string, seconds: number, order: number, events: string[],
 *   published: number, received: number, tls: string}} ConnectionRow tls is its version or empty, order is the order of arrival
 */

/** A counter over time. */
class Series {
  #last;
  /** @type {number[]} per second, the newest last */
  rates = [];

  /** @param {number} [last] what it was at the last snapshot, if known */
  constructor(last = -1) {
    this.#last = last;
  }

  /**
   * @param {number} value
   * @param {number} seconds since the last one; 0: there is none
   * @returns {number | null} how much it grew per second
   */
  add(value, seconds) {
    const grown = value - (value < this.#last ? 0 : this.#last); // a counter that fell has restarted
    const rate = this.#last < 0 || seconds <= 0 ? null : grown / seconds;
    this.#last = value;
    if (rate !== null) {
      this.rates.push(rate);
      if (this.rates.length > most) this.rates.shift();
    }
    return rate;
  }
}

export class Traffic {
  #at = NaN; // ms of the last snapshot, by the server's clock
  #published = new Series();
  #delivered = new Series();
  #cpu = new Series();
  /** @type {Map<string, Series>} */
  #events = new Map();

  /** @param {Snapshot} snapshot the next one */
  add({subscriptions, all_connections, created_at, server}) {
    // All times are the server's: this browser's clock, or that of a Pi that does not know the time yet, may be years
    // off.
    const now = Date.parse(created_at);
    const seconds = (now - this.#at) / 1000 || 0;
    this.#at = now;

    /** @type {Map<string, Series>} */
    const series = new Map();
    const events = subscriptions.map(({name}, i) => {
      // An event that was not in the last snapshot started at 0 since, unless it was left out.
      const one = this.#events.get(name) ?? new Series(seconds > 0 && !server.truncated ? 0 : -1);
      series.set(name, one);
      const {subscribers, published, last} = server.event_traffic[i];
      const rate = one.add(published, seconds);
      const age = last ? Math.max(0, now - Date.parse(last.created_at)) / 1000 : Infinity;
      return {name, subscribers, rate, rates: one.rates, last, age};
    });
    this.#events = series;

    return {
      events,
      connections: connectionRows(subscriptions, all_connections, server, now),
      published: {rate: this.#published.add(server.published, seconds), rates: this.#published.rates},
      delivered: {rate: this.#delivered.add(server.delivered, seconds), rates: this.#delivered.rates},
      processor: this.#cpu.add(server.cpu_seconds, seconds),
    };
  }
}

/**
 * @param {Subscription[]} subscriptions
 * @param {Connection[]} all
 * @param {Server} server
 * @param {number} now
 * @returns {ConnectionRow[]}
 */
function connectionRows(subscriptions, all, server, now) {
  // A snapshot identifies a connection by what is known about it. On the local socket that may be the same for two
  // connections, which then share their list of events.
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
  return all.map((connection, i) => {
    const key = keyOf(connection);
    const {client_name: name, ip_address: address, connected_at: at} = connection;
    const {published, delivered: received, tls_version: tls} = server.connection_traffic[i];
    const seconds = (now - Date.parse(at)) / 1000;
    return {key, name, address, at, seconds, order: i, events: eventsOf.get(key) ?? [], published, received, tls};
  });
}

/** @param {Connection} connection */
function keyOf({client_name, ip_address, connected_at}) {
  return `${ip_address} ${connected_at} ${client_name}`;
}
