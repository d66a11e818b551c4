// A WebSocket that comes back: after a server's restart, a lost network, a laptop's sleep.

const connectLimit = 10_000; // ms an attempt may take; a browser's own limit is minutes
const firstPause = 500; // ms
const longestPause = 15_000; // ms
const steadyAfter = 10_000; // ms that a connection must have held for the pauses to start small again

/**
 * @typedef {object} Options
 * @property {() => string} address asked before each attempt
 * @property {(text: string) => void} received
 * @property {(state: 'connecting' | 'open' | 'away', reason: string) => void} changed the reason is for people, and
 *   comes only with 'away'
 * @property {() => Promise<{stop: boolean, reason: string, wait: number}>} refused asked when an attempt ended before
 *   it opened: whether to give up, and otherwise how many seconds to wait at least
 * @property {number} silence ms without a message after which the connection counts as dead: a page cannot see pings,
 *   and a peer whose plug was pulled never says goodbye
 * @property {() => string} [poke] a message that makes the server answer, sent after half that silence; needed where
 *   silence is normal
 */

export class LiveSocket {
  /** @type {Options} */
  #options;
  /** @type {WebSocket | null} */
  #socket = null;
  #live = false; // between open() and close()
  #turn = 0; // counts attempts and closings, so that what was begun before one can see that it is stale
  #attempts = 0;
  #began = 0; // ms, when the current attempt began or the current connection opened
  #heard = 0; // ms, the last sign of life
  #poked = false;
  #pause = 0; // timer of the next attempt, 0 when none is due
  #asked = false; // the server itself has asked for that pause
  #watch = 0; // timer that looks for silence

  /** @param {Options} options */
  constructor(options) {
    this.#options = options;
  }

  open() {
    if (this.#live) return;
    this.#live = true;
    this.#attempts = 0;
    this.#watch = setInterval(() => this.#check(), 1000);
    addEventListener('online', this.#hurry);
    document.addEventListener('visibilitychange', this.#hurry);
    this.#connect();
  }

  /** After it nothing is called back. */
  close() {
    this.#live = false;
    this.#turn++;
    clearInterval(this.#watch);
    clearTimeout(this.#pause);
    this.#pause = 0;
    removeEventListener('online', this.#hurry);
    document.removeEventListener('visibilitychange', this.#hurry);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  /** Connects anew at once, whatever the state: the address may have changed. */
  renew() {
    if (!this.#live) return;
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    this.#connect();
  }

  /**
   * @param {string} text
   * @returns {boolean} false when there is no connection; the text is then dropped
   */
  send(text) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(text);
    return true;
  }

  #connect() {
    this.#turn++;
    clearTimeout(this.#pause);
    this.#pause = 0;
    this.#began = this.#heard = performance.now();
    this.#poked = false;
    const socket = new WebSocket(this.#options.address());
    this.#socket = socket;
    let opened = false;
    // Each handler asks whether it still speaks for the current socket: a replaced one closes later.
    socket.onopen = () => {
      if (socket !== this.#socket) return;
      opened = true;
      this.#began = this.#heard = performance.now();
      this.#options.changed('open', '');
    };
    socket.onmessage = (message) => {
      if (socket !== this.#socket) return;
      this.#heard = performance.now();
      this.#poked = false;
      this.#options.received(String(message.data));
    };
    socket.onclose = (close) => {
      if (socket === this.#socket) this.#lost(opened, close.code);
    };
    this.#options.changed('connecting', '');
  }

  /**
   * @param {boolean} opened whether the connection had been open
   * @param {number} code
   */
  async #lost(opened, code) {
    this.#socket = null;
    if (opened && performance.now() - this.#began > steadyAfter) this.#attempts = 0;
    let wait = 0;
    if (opened) {
      this.#options.changed('away', goodbyes[code] ?? 'The connection was lost.');
    } else {
      const turn = this.#turn;
      const answer = await this.#options.refused();
      if (turn !== this.#turn) return;
      if (answer.stop) {
        this.close();
        return;
      }
      wait = answer.wait * 1000;
      this.#options.changed('away', answer.reason);
    }
    // The jitter keeps the clients of a restarted server from all coming back in the same moment.
    const pause = Math.min(longestPause, firstPause * 2 ** this.#attempts) * (0.5 + Math.random() / 2);
    this.#attempts++;
    this.#pause = setTimeout(() => this.#connect(), Math.max(pause, wait));
    this.#asked = wait > 0;
  }

  /** The network is back, or someone looks at the page again: no reason to sit out the pause. */
  #hurry = () => {
    if (this.#pause && !this.#asked && document.visibilityState === 'visible') this.#connect();
  };

  #check() {
    const socket = this.#socket;
    if (!socket) return;
    const silent = performance.now() - this.#heard;
    const opened = socket.readyState === WebSocket.OPEN;
    if (silent > (opened ? this.#options.silence : connectLimit)) {
      socket.close();
      this.#lost(opened, 0);
    } else if (opened && this.#options.poke && !this.#poked && silent > this.#options.silence / 2) {
      this.#poked = true;
      this.send(this.#options.poke());
    }
  }
}

/** @type {Record<number, string>} what the server means by closing */
const goodbyes = {
  1001: 'The server has stopped.',
  1008: 'The server has ended the connection: a limit was passed.',
  1012: 'The server is restarting.',
  1013: 'This browser reads too slowly; the server let it go.',
};
