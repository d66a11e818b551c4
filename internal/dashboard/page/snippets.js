// The same action as a line for another program.

/** @typedef {'curl' | 'picloud' | 'python' | 'javascript'} Language */

/**
 * @param {Language} language
 * @param {{server: string, name: string, event: string, json: string}} action server without a slash at its end; json is
 *   the data
 */
export function publishing(language, {server, name, event, json}) {
  const route = `${server}/publish?clientName=${encodeURIComponent(name)}`;
  const message = `{"event":${JSON.stringify(event)},"data":${json}}`;
  switch (language) {
    case 'curl':
      return `curl -H "X-API-Key: $API_KEY" ${shell(route)} -d ${shell(message)}`;
    case 'picloud': {
      const data = JSON.parse(json);
      // A string is passed as it is, except the one that would mean standard input.
      const asText = typeof data === 'string' && data !== '-';
      return `picloud --url ${shell(server)} --name ${shell(name)} pub ${asText ? '' : '--json '}${
        operands(event, asText ? data : json)}`;
    }
    case 'python':
      return `import os, urllib.request

urllib.request.urlopen(urllib.request.Request(
    ${JSON.stringify(route)},
    data=${JSON.stringify(message)}.encode(),
    headers={"X-API-Key": os.environ["API_KEY"]}))`;
    case 'javascript':
      return `import {PiCloud} from ${quoted(`${server}/picloud.js`)};

const cloud = new PiCloud(${quoted(server)}, {key: 'PUT THE KEY HERE', name: ${quoted(name)}});
await cloud.publish(${quoted(event)}, ${json});`;
  }
}

/**
 * @param {Language} language
 * @param {{server: string, name: string, event: string}} action
 */
export function subscribing(language, {server, name, event}) {
  switch (language) {
    case 'curl':
      return `# curl cannot subscribe: it speaks no WebSocket. This shows who is subscribed.
curl -H "X-API-Key: $API_KEY" ${shell(`${server}/info`)}`;
    case 'picloud':
      return `picloud --url ${shell(server)} --name ${shell(name)} sub ${operands(event)}`;
    case 'python':
      return `import json, os, websocket  # Debian: python3-websocket

ws = websocket.create_connection(
    ${JSON.stringify(`${server.replace('http', 'ws')}/subscribe?clientName=${encodeURIComponent(name)}`)},
    header=["X-API-Key: " + os.environ["API_KEY"]])
ws.send(json.dumps({"action": "subscribe", "event": ${JSON.stringify(event)}}))
while text := ws.recv():  # until the server closes it
    message = json.loads(text)
    print(message.get("data", message), flush=True)`;
    case 'javascript':
      return `import {PiCloud} from ${quoted(`${server}/picloud.js`)};

const cloud = new PiCloud(${quoted(server)}, {key: 'PUT THE KEY HERE', name: ${quoted(name)}});
await cloud.subscribe(${quoted(event)}, (data) => console.log(data)).ready;`;
  }
}

/**
 * Words of picloud's command line that are no flags, whatever they begin with.
 *
 * @param {...string} words
 */
function operands(...words) {
  return (words.some((word) => word.startsWith('-')) ? '-- ' : '') + words.map(shell).join(' ');
}

/**
 * Quotes a word for a POSIX shell.
 *
 * @param {string} word
 */
function shell(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/**
 * A JavaScript string in single quotes.
 *
 * @param {string} text
 */
function quoted(text) {
  return `'${JSON.stringify(text).slice(1, -1).replaceAll('\\"', '"').replaceAll("'", "\\'")}'`;
}
