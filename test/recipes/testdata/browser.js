// Runs a page's script with as much of a browser as it uses: node browser.js SCRIPT
// What the page shows is printed; SIGUSR2 clicks its button. Its origin is another machine.
const fs = require('fs')
const vm = require('vm')
const WS = require('ws')

class WebSocket extends WS {
  constructor(url) {
    super(url, {origin: 'http://elsewhere.example'})
    this.on('error', () => {})  // onclose follows
  }
}

const elements = {}
function element(id) {
  elements[id] ??= {set textContent(text) { console.log(id + ': ' + text) }}
  return elements[id]
}

process.on('SIGUSR2', () => element('#publish').onclick())
vm.runInNewContext(fs.readFileSync(process.argv[2], 'utf8'),
  {WebSocket, URLSearchParams, setTimeout, Math, JSON, document: {querySelector: element}})
