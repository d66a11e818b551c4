// A small chart of the last minutes.

const svg = 'http://www.w3.org/2000/svg'; // a namespace; it is not fetched
const width = 96;
const height = 24;

/** How many values a chart shows: with one every five seconds, the last four minutes. */
export const most = 48;
const fewest = 12; // values that fill it

/** The figure beside it says what matters, so it is hidden from screen readers. */
export class Chart {
  #line = document.createElementNS(svg, 'path');
  #area = document.createElementNS(svg, 'path');
  #drawn = '';

  /** @param {Element} parent */
  constructor(parent) {
    const root = document.createElementNS(svg, 'svg');
    root.setAttribute('viewBox', `0 0 ${width} ${height}`);
    root.setAttribute('preserveAspectRatio', 'none');
    root.setAttribute('aria-hidden', 'true');
    root.setAttribute('class', 'spark');
    this.#area.setAttribute('class', 'area');
    this.#line.setAttribute('class', 'trace');
    root.append(this.#area, this.#line);
    parent.append(root);
  }

  /** @param {number[]} values the newest last, at the right */
  draw(values) {
    const top = Math.max(1e-9, ...values);
    const step = width / (Math.max(values.length, fewest) - 1);
    const points = values.map((value, i) => {
      const x = width - (values.length - 1 - i) * step;
      const y = height - 1.5 - (value / top) * (height - 3);
      return `${x.toFixed(1)} ${y.toFixed(1)}`;
    });
    const line = points.length > 1 ? `M${points.join('L')}` : '';
    if (line === this.#drawn) return;
    this.#drawn = line;
    this.#line.setAttribute('d', line);
    this.#area.setAttribute('d', line && `${line}L${width} ${height}L${(width - (values.length - 1) * step).toFixed(1)} ${height}Z`);
  }
}
