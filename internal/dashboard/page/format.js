// Figures as people read them.

/** @param {number} n */
export function count(n) {
  return n.toLocaleString();
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

/**
 * A list of names, short: the first few, long ones clipped, and how many more.
 *
 * @param {string[]} names
 * @param {number} most
 */
export function some(names, most) {
  const shown = names.slice(0, most).map(clip).join(', ');
  return names.length > most ? `${shown} and ${count(names.length - most)} more` : shown;
}

/** @param {string} name */
function clip(name) {
  // By code points, so that no character is cut in half.
  return name.length > 32 && [...name].length > 32 ? `${[...name].slice(0, 31).join('')}…` : name;
}
