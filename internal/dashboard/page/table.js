// A table of any length: it holds the rows that are in view and a few around them, sorts and filters.

import {find, setText} from './dom.js';
import {count} from './format.js';

const spare = 6; // rows above and below what is in view

/**
 * @template Item
 * @typedef {object} Kind what a table's rows are
 * @property {(item: Item) => string} key
 * @property {string[]} classes of the cells
 * @property {(row: HTMLTableRowElement) => void} [make] fills a new row's cells with what they keep
 * @property {(row: HTMLTableRowElement, item: Item) => void} update writes an item into a row, new or not. What is in
 *   items may come from anyone: as text, never as markup.
 * @property {Record<string, (item: Item) => string | number>} columns what each column that sorts sorts by
 * @property {(item: Item) => string} text what the filter looks into
 * @property {string} sort the column to sort by at first
 * @property {string} whenEmpty shown when there are no rows
 */

/** @template Item */
export class Table {
  #kind;
  #scroll;
  #table;
  #body;
  #note;
  #empty;
  #filter;
  /** @type {Item[]} */
  #all = [];
  /** @type {Item[]} those that pass the filter, sorted */
  #items = [];
  /** @type {Map<string, HTMLTableRowElement>} the rows on the page */
  #rows = new Map();
  /** @type {WeakMap<HTMLTableRowElement, Item>} what was written into them */
  #written = new WeakMap();
  #height = 0; // of a row; 0: to be measured
  #above = space();
  #below = space();
  #sort;
  #descending = false;

  /**
   * @param {HTMLElement} section with a filter, a table in a scroll box, a note and a line for when it is empty
   * @param {Kind<Item>} kind all rows have one height: the style sheet sees to that
   */
  constructor(section, kind) {
    this.#kind = kind;
    this.#sort = kind.sort;
    this.#scroll = find(section, '.scroll');
    this.#table = find(section, 'table');
    this.#body = find(section, 'tbody');
    this.#note = find(section, '.note');
    this.#empty = find(section, '.empty');
    this.#filter = /** @type {HTMLInputElement} */ (find(section, 'input[type="search"]'));
    this.#body.append(this.#above, this.#below);
    this.#scroll.onscroll = () => this.#render();
    this.#filter.oninput = () => {
      this.#scroll.scrollTop = 0;
      this.#arrange();
    };
    for (const button of section.querySelectorAll('button')) {
      const column = button.dataset.sort;
      if (column) button.onclick = () => this.#sortBy(column);
    }
    // A new width may mean another layout.
    new ResizeObserver(() => {
      this.#height = 0;
      this.#render();
    }).observe(this.#scroll);
    this.#arrange();
  }

  /** @param {Item[]} items in the order in which equal ones stay */
  show(items) {
    this.#all = items;
    this.#arrange();
  }

  /** @param {string} column */
  #sortBy(column) {
    // Names start at A, figures at the largest.
    const first = this.#all[0];
    const figures = first !== undefined && typeof this.#kind.columns[column](first) === 'number';
    this.#descending = column === this.#sort ? !this.#descending : figures;
    this.#sort = column;
    this.#scroll.scrollTop = 0;
    this.#arrange();
  }

  #arrange() {
    const wanted = this.#filter.value.trim().toLowerCase();
    const {columns, text, whenEmpty} = this.#kind;
    const by = columns[this.#sort];
    const keyed = [];
    for (const item of this.#all) {
      if (wanted && !text(item).toLowerCase().includes(wanted)) continue;
      keyed.push({item, key: by(item)});
    }
    const sign = this.#descending ? -1 : 1;
    keyed.sort((a, b) => sign * compare(a.key, b.key));
    this.#items = keyed.map(({item}) => item);

    for (const head of this.#table.querySelectorAll('th')) {
      const button = head.querySelector('button');
      if (!button) continue;
      const order = this.#descending ? 'descending' : 'ascending';
      head.setAttribute('aria-sort', button.dataset.sort === this.#sort ? order : 'none');
    }
    this.#table.setAttribute('aria-rowcount', String(this.#items.length + 1));
    const {length} = this.#items;
    setText(this.#note, wanted ? `${count(length)} of ${count(this.#all.length)}` : count(length));
    setText(this.#empty, length > 0 ? '' : wanted ? 'Nothing here has that in it.' : whenEmpty);
    this.#scroll.hidden = length === 0;
    this.#render();
  }

  #render() {
    const height = this.#rowHeight();
    const {scrollTop, clientHeight} = this.#scroll;
    const top = Math.floor(scrollTop / height) - spare;
    const first = Math.max(0, Math.min(top, this.#items.length - 1));
    const last = Math.min(this.#items.length, top + Math.ceil(clientHeight / height) + 2 * spare);

    /** @type {Map<string, {item: Item, index: number}>} */
    const wanted = new Map();
    for (let index = first; index < last; index++) {
      const item = this.#items[index];
      const key = this.#kind.key(item);
      // Two items may look the same, such as two clients of the local socket: the second is told apart by its position.
      wanted.set(wanted.has(key) ? `${key} ${index}` : key, {item, index});
    }
    for (const [key, row] of this.#rows) {
      if (wanted.has(key)) continue;
      if (row.contains(document.activeElement)) this.#scroll.focus({preventScroll: true});
      row.remove();
      this.#rows.delete(key);
    }
    let next = this.#above.nextElementSibling;
    for (const [key, {item, index}] of wanted) {
      let row = this.#rows.get(key);
      if (!row) {
        row = this.#makeRow();
        this.#rows.set(key, row);
      }
      if (this.#written.get(row) !== item) {
        this.#kind.update(row, item);
        this.#written.set(row, item);
      }
      row.setAttribute('aria-rowindex', String(index + 2));
      row.classList.toggle('odd', index % 2 === 1);
      // An element that stays in place keeps focus and selection.
      if (row === next) next = next.nextElementSibling;
      else this.#body.insertBefore(row, next);
    }
    this.#above.style.height = `${first * height}px`;
    this.#below.style.height = `${Math.max(0, this.#items.length - last) * height}px`;
  }

  #rowHeight() {
    const [row] = this.#rows.values();
    this.#height ||= row?.getBoundingClientRect().height ?? 0;
    return this.#height || 48; // until there is a row to measure
  }

  #makeRow() {
    const row = document.createElement('tr');
    // The style sheet takes rows out of the table's layout on a phone, and browsers then forget what they are.
    row.setAttribute('role', 'row');
    for (const name of this.#kind.classes) {
      const cell = row.insertCell();
      cell.className = name;
      cell.setAttribute('role', 'cell');
    }
    this.#kind.make?.(row);
    return row;
  }
}

/** A row that stands in for those out of view. */
function space() {
  const row = document.createElement('tr');
  row.className = 'space';
  row.setAttribute('aria-hidden', 'true');
  return row;
}

const collator = new Intl.Collator(undefined, {numeric: true});

/**
 * @param {string | number} a
 * @param {string | number} b
 */
function compare(a, b) {
  return typeof a === 'number' && typeof b === 'number' ? a - b : collator.compare(String(a), String(b));
}
