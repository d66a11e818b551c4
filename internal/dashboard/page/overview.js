// Who is connected and what flows, from the snapshots of the info route.

import {Chart} from './chart.js';
import {byId, find, make, setText} from './dom.js';
import {bytes, count, counted, rate, some, span, visible} from './format.js';
import {ServerPanel} from './server.js';
import {Table} from './table.js';
import {Traffic} from './traffic.js';

const mostNames = 4; // shown in one cell

/**
 * @typedef {import('./traffic.js').Snapshot} Snapshot
 * @typedef {import('./traffic.js').EventRow} EventRow
 * @typedef {import('./traffic.js').ConnectionRow} ConnectionRow
 */

export class Overview {
  #traffic = new Traffic();
  #published = new Chart(byId('published-chart'));
  #delivered = new Chart(byId('delivered-chart'));
  #server = new ServerPanel();
  #events;
  #connections;

  /** @param {(event: string) => void} watch called when someone wants to see an event's messages */
  constructor(watch) {
    this.#events = events(watch);
    this.#connections = connections();
  }

  /** @param {Snapshot} snapshot */
  show(snapshot) {
    const {events, connections, published, delivered, processor} = this.#traffic.add(snapshot);
    this.#events.show(events);
    this.#connections.show(connections);
    this.#server.show(snapshot.server, connections, processor);

    const {server} = snapshot;
    // Lists that are cut do not tell how many there are.
    const clientCount = server.truncated ? server.connections : connections.length;
    const eventCount = server.truncated ? server.events : events.length;
    const busy = events.filter((event) => event.rate).length;
    setText(byId('connections-figure'), count(clientCount));
    setText(byId('connections-room'), `of ${count(server.max_connections)}`);
    setText(byId('events-figure'), count(eventCount));
    setText(byId('events-busy'), busy ? `${count(busy)} busy` : '');
    setText(byId('published-figure'), published.rate === null ? '–' : rate(published.rate));
    setText(byId('delivered-figure'), delivered.rate === null ? '–' : rate(delivered.rate));
    this.#published.draw(published.rates);
    this.#delivered.draw(delivered.rates);
    setText(byId('summary'), summary(clientCount, eventCount, published.rate) + cut(snapshot));
  }

  clear() {
    this.#traffic = new Traffic();
    this.#events.show([]);
    this.#connections.show([]);
    this.#server.clear();
    this.#published.draw([]);
    this.#delivered.draw([]);
    for (const figure of ['connections', 'events', 'published', 'delivered']) setText(byId(`${figure}-figure`), '–');
    for (const id of ['connections-room', 'events-busy', 'summary']) setText(byId(id), '');
  }
}

/**
 * @param {number} clients
 * @param {number} events
 * @param {number | null} published
 */
function summary(clients, events, published) {
  if (clients === 0) return 'PiCloud is running. Nobody is connected yet: try it below, or connect a device.';
  const who = `${counted(clients, 'client is', 'clients are')} connected`;
  if (events === 0) return `${who}. None of them has subscribed to an event.`;
  const what = `${who}, listening to ${counted(events, 'event')}.`;
  if (published === null) return what;
  return published > 0 ? `${what} ${rate(published)} messages a second come in.` : `${what} It is quiet at the moment.`;
}

/** @param {Snapshot} snapshot */
function cut({subscriptions, all_connections, server}) {
  if (!server.truncated) return '';
  const listed = subscriptions.reduce((sum, {connections}) => sum + connections.length, 0);
  return ` Shown are ${count(all_connections.length)} of ${counted(server.connections, 'connection')}, ${count(subscriptions.length)} of ${counted(server.events, 'event')} and ${count(listed)} of ${counted(server.subscriptions, 'subscription')}.`;
}

/** @param {(event: string) => void} watch */
function events(watch) {
  /** @type {WeakMap<HTMLTableRowElement, Chart>} */
  const charts = new WeakMap();
  /** @type {Table<EventRow>} */
  const table = new Table(byId('events'), {
    key: ({name}) => name,
    classes: ['event', 'number', 'rate', 'last', 'age', 'watch'],
    make: (row) => {
      const [, subscribers, rateCell, last, , button] = row.cells;
      subscribers.append(make('span', ''), make('span', 'unit'));
      rateCell.append(make('span', 'chart'), make('span', 'value'), make('span', 'unit', ' a second'));
      charts.set(row, new Chart(find(rateCell, '.chart')));
      last.append(make('code', ''), make('span', 'quiet'));
      const watchButton = make('button', 'plain', 'Watch');
      watchButton.type = 'button';
      button.append(watchButton);
    },
    update: (row, item) => {
      const [name, subscribers, rateCell, last, age, button] = row.cells;
      const shown = visible(item.name);
      setText(name, shown);
      name.title = shown;
      setText(subscribers.children[0], count(item.subscribers));
      setText(subscribers.children[1], item.subscribers === 1 ? ' subscriber' : ' subscribers');
      setText(rateCell.children[1], item.rate === null ? '–' : rate(item.rate));
      charts.get(row)?.draw(item.rates);
      const [code, from] = last.children;
      const publisher = visible(item.last?.client_name ?? '');
      setText(code, item.last ? visible(item.last.preview, true) || '""' : '');
      setText(from, item.last ? ` ${publisher}` : 'none yet');
      last.title = item.last ? `${bytes(item.last.data_bytes)} from ${publisher}` : '';
      setText(age, item.last ? span(item.age) : '');
      const watchButton = /** @type {HTMLButtonElement} */ (button.children[0]);
      watchButton.setAttribute('aria-label', `Watch ${shown}`);
      watchButton.onclick = () => watch(item.name);
    },
    columns: {
      name: ({name}) => name,
      subscribers: ({subscribers}) => subscribers,
      rate: ({rate}) => rate ?? 0,
      age: ({age}) => -Math.min(age, Number.MAX_VALUE), // the newest counts as the largest
    },
    text: ({name, last}) => [name, last?.client_name ?? '', last?.preview ?? ''].map((text) => visible(text)).join('\n'),
    sort: 'name',
    whenEmpty: 'No client has subscribed to an event yet.',
  });
  return table;
}

function connections() {
  /** @type {Table<ConnectionRow>} */
  const table = new Table(byId('connections'), {
    key: ({key}) => key,
    classes: ['client', 'address', 'subscribed', 'number', 'number', 'age'],
    make: (row) => {
      for (const [cell, unit] of [[row.cells[3], ' published'], [row.cells[4], ' received']]) {
        /** @type {HTMLElement} */ (cell).append(make('span', ''), make('span', 'unit', String(unit)));
      }
      row.cells[1].append(make('span', ''), make('span', ''));
    },
    update: (row, item) => {
      const [client, address, subscribed, published, received, age] = row.cells;
      setText(client, visible(item.name) || '(no name)');
      client.title = visible(item.name);
      setText(address.children[0], item.address);
      setText(address.children[1], overTLS(item));
      address.title = item.address + overTLS(item);
      setText(subscribed, visible(some(item.events, mostNames)) || '–');
      setText(published.children[0], count(item.published));
      setText(received.children[0], count(item.received));
      setText(age, span(item.seconds));
      age.title = `since ${new Date(item.at).toLocaleString()}`;
    },
    columns: {
      name: ({name}) => name,
      address: ({address}) => address,
      subscriptions: ({events}) => events.length,
      published: ({published}) => published,
      received: ({received}) => received,
      since: ({order}) => order,
    },
    text: (item) => [item.name, item.address, overTLS(item), ...item.events].map((text) => visible(text)).join('\n'),
    sort: 'name',
    whenEmpty: 'Nobody is connected yet.',
  });
  return table;
}

/** @param {ConnectionRow} connection */
function overTLS({tls}) {
  return tls && ` · TLS ${tls}`;
}
