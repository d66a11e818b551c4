// A list on the page kept in step with a list of data.

/** @template Item */
export class Rows {
  #parent;
  #make;
  #update;
  /** @type {Map<string, HTMLElement>} */
  #elements = new Map();

  /**
   * What is in the items may come from anyone: make and update write it with textContent or setText, never as markup.
   *
   * @param {HTMLElement} parent
   * @param {(item: Item) => HTMLElement} make
   * @param {(element: HTMLElement, item: Item) => void} update called for new elements too
   */
  constructor(parent, make, update) {
    this.#parent = parent;
    this.#make = make;
    this.#update = update;
  }

  /**
   * An item that stays keeps its element, and with it focus, selection and the place in the page.
   *
   * @param {Map<string, Item>} items in the order of the page
   */
  show(items) {
    for (const [key, element] of this.#elements) {
      if (items.has(key)) continue;
      element.remove();
      this.#elements.delete(key);
    }
    let next = this.#parent.firstElementChild;
    for (const [key, item] of items) {
      let element = this.#elements.get(key);
      if (!element) {
        element = this.#make(item);
        this.#elements.set(key, element);
      }
      this.#update(element, item);
      if (element === next) next = next.nextElementSibling;
      else this.#parent.insertBefore(element, next);
    }
  }
}

/**
 * Writes only what differs, so that a table of thousands costs no layout while nothing changes.
 *
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * @param {string[]} classes one for each cell
 * @returns {HTMLTableRowElement}
 */
export function tableRow(classes) {
  const row = document.createElement('tr');
  // The style sheet takes rows out of the table's layout on a phone, and browsers then forget what they are.
  row.setAttribute('role', 'row');
  for (const name of classes) {
    const cell = row.insertCell();
    cell.className = name;
    cell.setAttribute('role', 'cell');
  }
  return row;
}
