// A table whose rows stay the same elements while what they show changes, so that nothing that
// somebody is about to press moves away.

import { el } from "./dom.js";

export class Table {
  /** columns: `{name, text}` or `{node}`, which makes an element once and may have `update`. */
  constructor(label, columns, empty) {
    this.columns = columns;
    this.rows = new Map();
    this.body = el("tbody", {});
    this.empty = el("p", { class: "note" }, empty);
    this.table = el("table", {}, el("thead", {}, el("tr", {}, columns.map(({ name, kind }) =>
      el("th", { scope: "col", class: kind || null }, name ?? el("span", { class: "hidden" }, "Action"))))), this.body);
    this.node = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, this.table, this.empty);
  }

  show(items, key) {
    this.empty.hidden = items.length > 0;
    this.table.hidden = !items.length;
    const kept = new Map();
    for (const item of items) {
      const row = this.rows.get(key(item)) ?? this.make();
      kept.set(key(item), row);
      row.item = item;
      this.columns.forEach((column, at) => this.fill(row.children[at], column, item));
    }
    this.rows = kept;
    const wanted = [...kept.values()];
    if (wanted.length !== this.body.children.length || wanted.some((row, at) => row !== this.body.children[at])) {
      this.body.replaceChildren(...wanted);
    }
  }

  make() {
    const row = el("tr", {}, this.columns.map(({ kind }) => el("td", { class: kind || null })));
    this.columns.forEach(({ node }, at) => node && row.children[at].append(node(() => row.item)));
    return row;
  }

  fill(cell, { text, update, kind }, item) {
    if (update) update(cell.firstChild, item);
    if (!text) return;
    const words = String(text(item) ?? "");
    if (cell.textContent === words) return;
    cell.textContent = words;
    if (kind === "end") cell.title = words; // It may be too long to be seen.
  }
}
