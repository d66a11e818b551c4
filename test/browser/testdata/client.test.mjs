// The browser client under Node, with Node's ws as the browser's WebSocket, against the real server and, for what that
// cannot be made to do, against one that misbehaves. CLIENT is the module to test, PICLOUDD the daemon.

import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {createServer} from 'node:http';
import {createRequire} from 'node:module';
import {createInterface} from 'node:readline';
import {test as run} from 'node:test';

const test = (name, story) => run(name, {timeout: 30_000}, story);
const ws = createRequire(import.meta.url)('ws');
globalThis.WebSocket ??= ws;

const {Line, PiCloud, PiCloudError, socketAddress} = await import(process.env.CLIENT);
const key = 'a-key-for-tests';

/** Starts picloudd, until the test ends. */
async function start(t, settings = {}) {
  const daemon = spawn(process.env.PICLOUDD, {
    env: {...process.env, PORT: '0', API_KEY: key, ...settings},
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const ended = once(daemon, 'exit');
  const stop = async () => {
    daemon.kill();
    await ended;
  };
  t.after(stop);
  const [line] = await once(createInterface(daemon.stdout), 'line');
  const url = line.replace(/.* listens on /, '');
  return {url, stop, port: new URL(url).port};
}

/** Makes a client, which is closed when the test ends. */
function connect(t, url, options = {}) {
  const cloud = new PiCloud(url, {key, name: 'Node', ...options});
  t.after(() => cloud.close());
  return cloud;
}

/** Waits until the client has that state, which it may have already. */
async function until(cloud, state) {
  while (cloud.state !== state) await once(cloud, 'state');
}

/** Collects messages: next() gives the next one. */
function inbox() {
  const messages = [], waiting = [];
  return {
    take: (data, message) => (waiting.shift() ?? ((m) => messages.push(m)))({data, message}),
    next: () => messages.length ? Promise.resolve(messages.shift()) : new Promise((resolve) => waiting.push(resolve)),
    messages,
  };
}

async function info(url) {
  const response = await fetch(`${url}/info`, {headers: {'X-API-Key': key}});
  return response.json();
}

/** The next error that a browser would show in its console. */
function report() {
  return new Promise((resolve) => {
    globalThis.reportError = resolve;
  });
}

const fails = (code, text = /./) => (error) => {
  assert.ok(error instanceof PiCloudError, `${error}`);
  assert.equal(error.code, code);
  assert.match(error.message, text);
  return true;
};

test('what is published arrives', async (t) => {
  const {url} = await start(t);
  const cloud = connect(t, url, {name: 'Hörnum 1'});
  const box = inbox();
  const {event, ready} = cloud.subscribe('wéather', box.take);
  assert.equal(event, 'wéather');
  await ready;
  for (const data of ['76.5 F', {celsius: 24.7, tags: ['a', null]}, 0, false, null]) {
    await cloud.publish('wéather', data);
    const got = await box.next();
    assert.deepEqual(got.data, data);
    assert.equal(got.message.event, 'wéather');
    assert.equal(got.message.client_name, 'Hörnum 1');
    assert.ok(got.message.created_at.endsWith('Z'));
  }
  await cloud.publish('wéather');
  assert.equal((await box.next()).data, '');
});

test('publishes without waiting keep their order', async (t) => {
  const {url} = await start(t);
  const cloud = connect(t, url);
  const box = inbox();
  cloud.subscribe('count', box.take);
  const all = [];
  for (let i = 0; i < 1000; i++) all.push(cloud.publish('count', i)); // the first of them while it is connecting
  await Promise.all(all);
  for (let i = 0; i < 1000; i++) assert.equal((await box.next()).data, i);
});

test('an event has several handlers and is left with the last', async (t) => {
  const {url} = await start(t);
  const cloud = connect(t, url);
  const one = inbox(), two = inbox();
  const first = cloud.subscribe('door', one.take);
  const second = cloud.subscribe('door', two.take);
  await Promise.all([first.ready, second.ready]);
  const third = cloud.subscribe('door', () => {});
  await third.ready;
  third.close();
  await cloud.publish('door', 1);
  assert.equal((await one.next()).data, 1);
  assert.equal((await two.next()).data, 1);
  first.close();
  await cloud.publish('door', 2);
  assert.equal((await two.next()).data, 2);
  assert.equal(one.messages.length, 0);
  assert.equal((await info(url)).subscriptions.length, 1);
  second.close();
  second.close();
  await cloud.publish('door', 3);
  assert.equal(two.messages.length, 0);
  assert.deepEqual((await info(url)).subscriptions, []);
  const again = cloud.subscribe('door', one.take);
  await again.ready;
  await cloud.publish('door', 4);
  assert.equal((await one.next()).data, 4);
});

test('a handler that throws stops no other', async (t) => {
  const {url} = await start(t);
  const cloud = connect(t, url);
  const box = inbox();
  const reported = report();
  cloud.subscribe('door', () => {
    throw new Error('my fault');
  });
  await cloud.subscribe('door', box.take).ready;
  await cloud.publish('door', 1);
  assert.equal((await box.next()).data, 1);
  assert.match((await reported).message, /my fault/);
});

test('a wrong key ends it', async (t) => {
  const {url} = await start(t);
  const cloud = connect(t, url, {key: 'wrong'});
  const early = cloud.publish('door', 1);
  const {ready} = cloud.subscribe('door', () => {});
  await Promise.all([
    assert.rejects(early, fails('closed', /does not know this key/)),
    assert.rejects(ready, fails('closed', /does not know this key/)),
  ]);
  assert.equal(cloud.state, 'closed');
  assert.match(cloud.reason, /does not know this key/);
  await assert.rejects(cloud.publish('door', 1), fails('closed'));
  await assert.rejects(cloud.subscribe('door', () => {}).ready, fails('closed'));
});

test('a name that the server would refuse is refused at once', () => {
  for (const name of ['', 'a\nb', 'x'.repeat(129), undefined]) {
    assert.throws(() => new PiCloud('http://localhost:9', {key, name}), TypeError);
  }
});

test('what the server refuses is rejected, and the rest goes on', async (t) => {
  const {url} = await start(t, {MAX_SUBSCRIPTIONS: '1'});
  const cloud = connect(t, url);
  await assert.rejects(cloud.publish('', 1), fails('refused', /event/));
  await assert.rejects(cloud.publish('door', 1n), TypeError);
  const box = inbox();
  await cloud.subscribe('door', box.take).ready;
  await assert.rejects(cloud.subscribe('lamp', () => {}).ready, fails('refused', /too many/));
  await cloud.publish('door', 1);
  assert.equal((await box.next()).data, 1);
});

test('it comes back to a server that was away, with its subscriptions and what was published meanwhile', async (t) => {
  const before = await start(t);
  const cloud = connect(t, before.url);
  const states = [];
  cloud.addEventListener('state', () => states.at(-1) === cloud.state || states.push(cloud.state)); // a new reason fires it too
  const box = inbox();
  await cloud.subscribe('door', box.take).ready;
  await before.stop();
  await until(cloud, 'away');
  assert.match(cloud.reason, /stopped|cannot be reached/);
  const waiting = [cloud.publish('door', 'one'), cloud.publish('door', 'two')];
  const late = cloud.subscribe('lamp', box.take);
  await start(t, {PORT: before.port});
  await Promise.all([...waiting, late.ready]);
  assert.equal((await box.next()).data, 'one');
  assert.equal((await box.next()).data, 'two');
  await until(cloud, 'open');
  assert.deepEqual(states, ['open', 'away', 'open']);
});

test('it is open once its subscriptions are back', async (t) => {
  const before = await start(t);
  const cloud = connect(t, before.url);
  for (const event of ['a', 'b', 'c']) await cloud.subscribe(event, () => {}).ready;
  await before.stop();
  await until(cloud, 'away');
  const after = await start(t, {PORT: before.port});
  await until(cloud, 'open');
  assert.deepEqual((await info(after.url)).subscriptions.map(({name}) => name), ['a', 'b', 'c']);
});

test('a message over the limit is not repeated and the client comes back', async (t) => {
  const {url} = await start(t, {MAX_MESSAGE_BYTES: '1K'});
  const cloud = connect(t, url);
  await assert.rejects(cloud.publish('door', 'x'.repeat(2000)), fails('unconfirmed', /over its limit/));
  await cloud.publish('door', 1);
});

test('what waits is bounded', async (t) => {
  const {url, stop} = await start(t);
  const cloud = connect(t, url);
  await until(cloud, 'open');
  await stop();
  await until(cloud, 'away');
  const half = 'x'.repeat(600_000);
  const kept = cloud.publish('door', half);
  await assert.rejects(cloud.publish('door', half), fails('full'));
  const closed = assert.rejects(kept, fails('closed'));
  cloud.close();
  await closed;
});

test('a closed client is closed', async (t) => {
  const {url} = await start(t);
  const cloud = connect(t, url);
  const box = inbox();
  await cloud.subscribe('door', box.take).ready;
  cloud.close();
  assert.equal(cloud.state, 'closed');
  await assert.rejects(cloud.publish('door', 1), fails('closed'));
});

/** A server that handles each connection with talk; a request without an upgrade is answered with status. */
async function pretend(t, talk, {status = 426, headers = {}} = {}) {
  const server = createServer((request, response) => response.writeHead(status, headers).end('{"error":"no"}'));
  const sockets = new ws.WebSocketServer({noServer: true});
  let attempts = 0;
  server.on('upgrade', (request, socket, head) => {
    attempts++;
    if (!talk) {
      socket.end(`HTTP/1.1 ${status} No\r\nConnection: close\r\n\r\n`);
      return;
    }
    sockets.handleUpgrade(request, socket, head, (peer) => talk(peer, attempts));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    for (const peer of sockets.clients) peer.terminate();
    server.close();
  });
  return {url: `http://127.0.0.1:${server.address().port}`, attempts: () => attempts};
}

/** Acks what peer sends. */
function acknowledge(peer) {
  peer.on('message', (text) => peer.send(JSON.stringify({action: 'ack', id: JSON.parse(text).id})));
}

test('a publish without an answer is unconfirmed and not repeated', async (t) => {
  const heard = [];
  const {url} = await pretend(t, (peer, attempt) => {
    if (attempt > 1) acknowledge(peer);
    peer.on('message', (text) => {
      heard.push(JSON.parse(text).data);
      if (attempt === 1) peer.terminate();
    });
  });
  const cloud = connect(t, url);
  await until(cloud, 'open');
  await assert.rejects(cloud.publish('door', 'first'), fails('unconfirmed', /may have been published/));
  await cloud.publish('door', 'second');
  assert.deepEqual(heard, ['first', 'second']);
});

for (const code of [1001, 1012, 1013]) {
  test(`it comes back after ${code}`, async (t) => {
    const {url} = await pretend(t, (peer, attempt) => {
      if (attempt === 1) peer.close(code);
      else acknowledge(peer);
    });
    const cloud = connect(t, url);
    await until(cloud, 'away');
    assert.notEqual(cloud.reason, '');
    await until(cloud, 'open');
    assert.equal(cloud.reason, '');
  });
}

for (const code of [1002, 1007, 1008]) {
  test(`it does not come back after ${code}`, async (t) => {
    const {url, attempts} = await pretend(t, (peer) => peer.close(code));
    const cloud = connect(t, url);
    await until(cloud, 'closed');
    assert.match(cloud.reason, /has ended the connection/);
    assert.equal(attempts(), 1);
  });
}

test('it does not ask again before the server says so', async (t) => {
  const {url, attempts} = await pretend(t, null, {status: 503, headers: {'Retry-After': '3600'}});
  const cloud = connect(t, url);
  await until(cloud, 'away');
  assert.match(cloud.reason, /full or stopping/);
  // A pause that ignored it would be at most 500 ms.
  await new Promise((resolve) => setTimeout(resolve, 700));
  assert.equal(attempts(), 1);
});

test('a refused name ends it with the reason', async (t) => {
  const {url} = await pretend(t, null, {status: 400});
  const cloud = connect(t, url);
  await until(cloud, 'closed');
  assert.match(cloud.reason, /refuses this client: no/);
});

test('a subscription that is not taken again is reported', async (t) => {
  const {url} = await pretend(t, (peer, attempt) => peer.on('message', (text) => {
    const {id} = JSON.parse(text);
    peer.send(JSON.stringify(attempt === 1 ? {action: 'ack', id} : {action: 'error', error: 'too many', id}));
    if (attempt === 1) peer.close(1012);
  }));
  const reported = report();
  const cloud = connect(t, url);
  await cloud.subscribe('door', () => {}).ready;
  assert.equal((await reported).code, 'refused');
});

test('a line that hears nothing asks, and then takes the server for dead', async (t) => {
  const heard = [];
  const {url, attempts} = await pretend(t, (peer, attempt) => peer.on('message', (text) => {
    heard.push(`${attempt} ${text}`);
    if (attempt === 1 && heard.length === 1) peer.send('here'); // once
  }));
  const states = [];
  let again;
  const second = new Promise((resolve) => {
    again = resolve;
  });
  const line = new Line(socketAddress(url, 'subscribe', {}), {
    received: (text) => states.push(text),
    changed: (state) => {
      states.push(state);
      if (state === 'open' && attempts() === 2) again();
    },
    poke: () => 'there?',
    silence: 1500, // it is checked once a second
  });
  t.after(() => line.close());
  line.open();
  await second;
  assert.deepEqual(states, ['connecting', 'open', 'here', 'away', 'open']);
  assert.deepEqual(heard.slice(0, 2), ['1 there?', '1 there?']);
});

test('addresses', () => {
  for (const [url, want] of [
    ['http://pi:9000', 'ws://pi:9000/info?a=b+c'],
    ['https://pi/', 'wss://pi/info?a=b+c'],
    ['wss://pi/below/it?x#y', 'wss://pi/below/it/info?a=b+c'],
    ['ws://[fe80::1]:9000/', 'ws://[fe80::1]:9000/info?a=b+c'],
  ]) {
    assert.equal(socketAddress(url, 'info', {a: 'b c'}).href, want);
  }
});
