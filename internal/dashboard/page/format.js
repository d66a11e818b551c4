// Figures as people read them.

/** @param {number} n */
export function count(n) {
  return n.toLocaleString();
}

/**
 * @param {number} n
 * @param {string} one
 * @param {string} [many]
 */
export function counted(n, one, many = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : many}`;
}

/** @param {number} perSecond */
export function rate(perSecond) {
  return perSecond.toLocaleString(undefined, {maximumFractionDigits: perSecond < 10 ? 1 : 0});
}

/** @param {number} seconds */
export function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${count(Math.floor(s / 86_400))} d ${Math.floor((s % 86_400) / 3600)} h`;
}

/** @param {number} n */
export function bytes(n) {
  if (n < 1024) return counted(n, 'byte');
  const [value, unit] = n < 1 << 20 ? [n / 1024, 'KiB'] : [n / (1 << 20), 'MiB'];
  return `${value.toLocaleString(undefined, {maximumFractionDigits: value < 10 ? 1 : 0})} ${unit}`;
}

const clock = new Intl.DateTimeFormat(undefined, {hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23'});

/** @param {Date} at */
export function timeOfDay(at) {
  return Number.isNaN(at.getTime()) ? '' : clock.format(at);
}

// An emoji of several characters as a whole, or a character that has no looks of its own. (Unicode's UTS #51; U+2800 is
// an empty Braille cell.)
const unseen = /[#*0-9]\uFE0F\u20E3|\p{ExtPict}\p{EMod}?\uFE0F?(?:\u200D\p{ExtPict}\p{EMod}?\uFE0F?)*|([\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{DI}\u2800])/gu;

/**
 * Text from outside, with what would hide in it: one name must not pass for another, nor turn the direction of what
 * stands around it.
 *
 * @param {string} text
 * @param {boolean} [lines] it may have several, and tabs
 */
export function visible(text, lines = false) {
  return text.replace(unseen, (match, /** @type {string | undefined} */ hidden, offset) => {
    if (!hidden || (lines && /^(?:\r?\n|\t)/.test(text.slice(offset, offset + 2)))) return match;
    return `⟨U+${hidden.codePointAt(0)?.toString(16).toUpperCase().padStart(4, '0')}⟩`;
  });
}

/**
 * A list of names, short: the first few, and how many more.
 *
 * @param {string[]} names
 * @param {number} most
 */
export function some(names, most) {
  const shown = names.slice(0, most).join(', ');
  return names.length > most ? `${shown} and ${count(names.length - most)} more` : shown;
}

/**
 * JSON.parse, except that where the browser can, a number that JavaScript would change (a long id) keeps its digits
 * for JSON.stringify.
 *
 * @param {string} text
 */
export function parseExactly(text) {
  const raw = /** @type {{rawJSON?: (source: string) => unknown}} */ (JSON).rawJSON;
  if (!raw) return JSON.parse(text);
  /** @type {(key: string, value: unknown, context?: {source?: string}) => unknown} */
  const revive = (key, value, context) =>
    typeof value === 'number' && context?.source && String(value) !== context.source ? raw(context.source) : value;
  return JSON.parse(text, revive);
}
