/** A row of a table to edit: for each column an input, the imputed value with its interval, and the bits of the cell. */

import { cellInput } from "./cell_input.js";
import { h } from "./dom.js";
import { shownValue } from "./format.js";

const UNUSUAL_BITS = 8; // bits above those of a typical value from which a cell has the strongest shade

export class RowEditor {
  /** @param onChange is called after every change of a value, because results then do not belong to the row any more */
  constructor({ columns, target }, onChange) {
    this.onChange = onChange;
    this.lines = columns.map((column) => new EditorLine(column, column.name === target, () => this.clearResults()));
    const titles = ["Column", "Value", "", "Imputed, with 90 % interval", "Bits"];
    const head = h("thead", {}, h("tr", {}, ...titles.map((title) => h("th", { scope: "col" }, title))));
    this.element = h("table.row-editor", {}, head, h("tbody", {}, ...this.lines.map((line) => line.element)));
  }

  /** Return the row as an object without its empty cells; null is a value where missing is a category. */
  get row() {
    return Object.fromEntries(this.lines.filter(({ input }) => input.value !== undefined).map(({ column, input }) => [column.name, input.value]));
  }

  /** Return whether a cell is empty. */
  get hasEmptyCells() {
    return this.lines.some(({ input }) => input.value === undefined);
  }

  /** Set all cells. */
  setRow(row) {
    for (const { column, input } of this.lines) input.set(row[column.name]);
    this.clearResults();
  }

  /** Fill the empty cells with those of a completion. */
  fill(completion) {
    for (const { column, input } of this.lines) if (input.value === undefined) input.set(completion[column.name]);
    this.clearResults();
  }

  clearResults() {
    for (const line of this.lines) line.clearResults();
    this.onChange();
  }

  /** Show the statistics of the missing cells by column. */
  showImputed(cells) {
    for (const line of this.lines) line.showImputed(cells[line.column.name]);
  }

  /** Show the bits of the cells by column; the more unusual a cell, the darker its shade. Return the most unusual one. */
  showBits(cells) {
    for (const line of this.lines) line.showBits(cells[line.column.name] ?? null);
    const shown = this.lines.filter((line) => line.excessBits !== null);
    const most = shown.reduce((best, line) => (best === null || line.excessBits > best.excessBits ? line : best), null);
    return most && most.excessBits > 0 ? most.column.name : null;
  }
}

/** The line of one column. */
class EditorLine {
  constructor(column, isTarget, onChange) {
    this.column = column;
    this.excessBits = null;
    this.input = cellInput(column, onChange);
    this.imputed = h("td.imputed");
    this.bits = h("td.bits");
    const control = this.input.field ?? this.input.element;
    control.setAttribute("aria-label", column.name);
    const empty = h("button.secondary", { type: "button", "aria-label": `Empty ${column.name}`, onclick: () => (this.input.set(undefined), onChange()) }, "Empty");
    const name = h("th", { scope: "row" }, column.name, isTarget ? h("span.target", {}, " target") : null);
    const value = h("td", {}, this.input.element, this.input.range ? h("span.allowed-range", {}, this.input.range) : null);
    this.element = h("tr", {}, name, value, h("td", {}, empty), this.imputed, this.bits);
  }

  clearResults() {
    this.showImputed(undefined);
    this.showBits(null);
  }

  /** Show a value such as 38000 (25000 … 61000) or Masters (43 %). */
  showImputed(cell) {
    this.imputed.replaceChildren();
    if (!cell) return;
    const ends = [cell.low, cell.high];
    const [value, low, high] = [cell.median ?? cell.mode, ...ends].map((one) => one !== undefined && shownValue(one, this.column, ends));
    const interval = "low" in cell ? ` (${low} … ${high})` : "";
    this.imputed.append(h("strong", {}, value), "probability" in cell ? ` (${Math.round(100 * cell.probability)} %)` : interval);
  }

  showBits(bits) {
    this.excessBits = bits === null ? null : bits - this.column.typical_bits;
    const shade = bits === null ? 0 : Math.min(1, Math.max(0, this.excessBits / UNUSUAL_BITS));
    this.element.style.setProperty("--unusual", shade);
    this.bits.textContent = bits === null ? "" : bits.toFixed(1);
    this.bits.title = bits === null ? "" : `A value of this column has ${this.column.typical_bits.toFixed(1)} bits on average, without the other columns`;
  }
}
