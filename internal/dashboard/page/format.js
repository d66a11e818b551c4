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
