// The server itself: what it is, its limits and how close they are, which slow clients it closed and why.

import {byId, find, make, setText} from './dom.js';
import {bytes, count, span, visible} from './format.js';

/**
 * @typedef {import('./traffic.js').Server} Server
 * @typedef {import('./traffic.js').ConnectionRow} ConnectionRow
 */

export class ServerPanel {
  /**
   * @param {Server} server
   * @param {ConnectionRow[]} connections
   * @param {number | null} processor seconds of processor time per second
   */
  show(server, connections, processor) {
    facts(byId('facts'), [
      ['Version', server.version],
      ['Up for', span(server.uptime_seconds)],
      ['Port', server.port ? String(server.port) : 'none, a local socket only'],
      ['TLS', tls(server)],
      ['Status LED', led(server, connections.length)],
      ['Processor', processor === null ? '–' : `${(100 * processor).toFixed(processor < 0.1 ? 1 : 0)} % of one core`],
      ['Memory', server.resident_memory_bytes ? bytes(server.resident_memory_bytes) : '–'],
      ['Published since the start', count(server.published)],
      ['Delivered since the start', count(server.delivered)],
      ['Wrong keys', count(server.wrong_keys)],
      ['Clients kept over the last restart', kept(server)],
    ]);
    const busiest = connections.reduce((most, {events}) => Math.max(most, events.length), 0);
    facts(byId('limits'), [
      ['Connections, with this page’s', `${count(server.connections)} of ${count(server.max_connections)}${full(server.connection_limit_reached)}`,
        server.connections / server.max_connections],
      ['Subscriptions of one client', `at most ${count(busiest)} of ${count(server.max_subscriptions)}`, busiest / server.max_subscriptions],
      ['One message', `up to ${bytes(server.max_message_bytes)}`],
      ['Waiting for one client', `up to ${bytes(server.max_queue_bytes)}`],
    ]);
    setText(byId('slow-clients-note'), server.slow_clients_closed === 0
      ? 'None. A client that reads too slowly is closed, so that it delays nobody.'
      : `${count(server.slow_clients_closed)} since the start. A client that reads too slowly is closed, so that it delays nobody. It may come back.`);
    byId('slow-clients').replaceChildren(...server.slow_clients_closed_latest.map((client) => {
      const item = make('li', '');
      const at = new Date(client.closed_at);
      item.append(make('strong', '', visible(client.client_name)), make('span', 'quiet', client.ip_address),
        make('span', 'quiet', at.toLocaleString()), make('span', '', client.reason));
      return item;
    }));
  }

  clear() {
    for (const id of ['facts', 'limits', 'slow-clients']) byId(id).replaceChildren();
    setText(byId('slow-clients-note'), '');
  }
}

/**
 * @param {HTMLElement} list
 * @param {[name: string, value: string, share?: number][]} entries share of a limit that is used, 0 to 1
 */
function facts(list, entries) {
  entries.forEach(([name, value, share], i) => {
    const entry = list.children[i] ?? list.appendChild(makeFact(name, share));
    setText(find(entry, 'dd span'), value);
    const meter = entry.querySelector('meter');
    if (meter && share !== undefined) {
      meter.value = share;
      meter.setAttribute('aria-valuetext', value);
    }
  });
}

/**
 * @param {string} name
 * @param {number} [share]
 */
function makeFact(name, share) {
  const entry = make('div', '');
  const value = make('dd', '');
  value.append(make('span', ''));
  if (share !== undefined) {
    const meter = make('meter', '');
    meter.max = 1;
    meter.high = 0.8;
    meter.optimum = 0;
    meter.setAttribute('aria-label', name);
    value.append(meter);
  }
  entry.append(make('dt', '', name), value);
  return entry;
}

/** @param {Server} server */
function kept({kept_over_restart, lost_over_restart}) {
  return lost_over_restart === 0 ? count(kept_over_restart) : `${count(kept_over_restart)}; ${count(lost_over_restart)} had to come back`;
}

/** @param {Server} server */
function tls({tls, tls_kept_over_restart}) {
  if (!tls) return 'off: what flows can be read on the network';
  return tls_kept_over_restart ? 'on; a restart keeps its connections' : 'on; a restart ends its connections, and clients come back';
}

/** @param {number} times */
function full(times) {
  return times === 0 ? '' : `; reached ${times === 1 ? 'once' : `${count(times)} times`} since the start`;
}

/**
 * What the LED shows, as the manual describes it.
 *
 * @param {Server} server
 * @param {number} clients
 */
function led({led, led_error}, clients) {
  if (led_error) return `does not work: ${led_error}`;
  if (!led) return 'none';
  if (clients === 0) return `${led}: a blip every 3 s, nobody is connected`;
  if (clients > 5) return `${led}: lit, with a short wink`;
  return `${led}: blinks ${clients === 1 ? 'once' : `${clients} times`}, then pauses`;
}
