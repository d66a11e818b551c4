// A client on Node's ws, and Node's own fetch. Usage: node client.js URL, with the key in API_KEY.
'use strict';
const assert = require('node:assert/strict');
const WebSocket = require('ws');

const url = process.argv[2];
const key = process.env.API_KEY;
const at = (path, name) => `${url.replace('http', 'ws')}${path}?apiKey=${key}&clientName=${name}`;

function connect(address) {
  const ws = new WebSocket(address);
  const queue = [], waiting = [];
  ws.on('message', (data, binary) => {
    const m = { ...JSON.parse(data), binary };
    if (waiting.length) waiting.shift()(m); else queue.push(m);
  });
  return new Promise((resolve, reject) => {
    ws.on('error', reject);
    ws.on('open', () => resolve({
      ws,
      say: (m) => ws.send(JSON.stringify(m)),
      next: () => queue.length ? Promise.resolve(queue.shift()) : new Promise((r) => waiting.push(r)),
      close: () => new Promise((r) => { ws.on('close', (code) => r(code)); ws.close(1000); }),
    }));
  });
}

async function post(event, data) {
  const r = await fetch(`${url}/publish?clientName=node-post`, {
    method: 'POST', headers: { Authorization: `Bearer ${key}` }, body: JSON.stringify({ event, data }),
  });
  assert.equal(r.status, 201);
  assert.equal(await r.text(), '');
}

(async () => {
  const sub = await connect(at('/subscribe', 'node-sub'));
  const pub = await connect(at('/publish', 'node-pub'));
  const message = async (event, data, client_name) => {
    const { created_at, ...m } = await sub.next();
    assert.ok(!Number.isNaN(Date.parse(created_at)) && created_at.endsWith('Z'), created_at);
    assert.deepEqual(m, { action: 'publish', event, data, client_name, binary: false });
  };
  for (const event of ['door', 'fence']) {
    sub.say({ action: 'subscribe', event, id: event });
    assert.deepEqual(await sub.next(), { action: 'ack', id: event, binary: false });
  }
  pub.say({ event: 'door', data: 'open' });
  await message('door', 'open', 'node-pub');
  pub.ws.send(Buffer.from('{"event":"door","data":[1,2]}'), { binary: true });
  await message('door', [1, 2], 'node-pub');
  await post('door', { state: 'shut' });
  await message('door', { state: 'shut' }, 'node-post');
  sub.say({ action: 'publish', event: 'door' });
  await message('door', '', 'node-sub');
  for (let i = 0; i < 1000; i++) pub.say({ event: 'door', data: i });
  for (let i = 0; i < 1000; i++) await message('door', i, 'node-pub');
  const big = 'x'.repeat(60000);
  pub.ws.send(`{"event":"door","data":"${big}"}`.slice(0, 30000), { fin: false });
  pub.ws.send(`{"event":"door","data":"${big}"}`.slice(30000), { fin: true });
  await message('door', big, 'node-pub');

  const pong = new Promise((r) => sub.ws.once('pong', (p) => r(String(p))));
  sub.ws.ping('are you there');
  assert.equal(await pong, 'are you there');

  sub.say({ action: 'unsubscribe', event: 'door', id: 7 });
  assert.deepEqual(await sub.next(), { action: 'ack', id: 7, binary: false });
  await post('door', 'nobody hears this');
  await post('fence', 'the only one');
  await message('fence', 'the only one', 'node-post');
  sub.say({ action: 'unsubscribe:all', id: 8 });
  assert.deepEqual(await sub.next(), { action: 'ack', id: 8, binary: false });
  assert.equal(await sub.close(), 1000);
  assert.equal(await pub.close(), 1000);
  console.log('all messages came');
})().catch((err) => { console.error(err); process.exit(1); });
