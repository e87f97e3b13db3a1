/** The input of one cell of a row: a list of categories, or a field for a number, date, time or text. */

import { h } from "./dom.js";
import { shownValue } from "./format.js";

const MAX_OPTIONS = 200; // more categories are suggestions of a text field, because a long list is slow to use
const TRUTH_VALUES = [false, true];

let listCount = 0; // gives each list of suggestions another id

/** Return the input of a column: {element, value, range, set(value)}; value is undefined while the cell is empty. */
export function cellInput(column, onChange) {
  if (column.type === "boolean") return new ChoiceInput(TRUTH_VALUES, onChange);
  const categories = column.missing_as_category ? [null, ...column.categories] : column.categories;
  if (column.type === "category" && column.categories.length <= MAX_OPTIONS) return new ChoiceInput(categories, onChange);
  return column.type === "category" ? new SuggestionInput(column, onChange) : new FieldInput(column, onChange);
}

/** A list of the values of a column, the first of which is the empty cell. */
class ChoiceInput {
  range = "";

  constructor(values, onChange) {
    this.values = [undefined, ...values];
    this.element = h("select", { onchange: onChange }, ...this.values.map((value) => h("option", {}, optionText(value))));
  }

  get value() {
    return this.values[this.element.selectedIndex];
  }

  /** Select a value; a value that is not listed, such as a rare one, is added. Null empties a cell that cannot be null. */
  set(given) {
    const value = given ?? (this.values.includes(null) ? given : undefined);
    if (!this.values.includes(value)) {
      this.values.push(value);
      this.element.append(h("option", {}, String(value)));
    }
    this.element.selectedIndex = this.values.indexOf(value);
  }
}

function optionText(value) {
  return value === undefined ? "(empty)" : value === null ? "(missing)" : String(value);
}

/** A text field that suggests the values of a column. */
class SuggestionInput {
  range = "";

  constructor(column, onChange) {
    const list = h("datalist", { id: `suggestions-${(listCount += 1)}` }, ...column.categories.map((value) => h("option", { value: String(value) })));
    this.field = h("input", { type: "text", placeholder: "(empty)", autocomplete: "off", oninput: onChange });
    this.field.setAttribute("list", list.id);
    this.element = h("span.row", {}, this.field, list);
  }

  get value() {
    return this.field.value === "" ? undefined : this.field.value;
  }

  set(value) {
    this.field.value = value ?? "";
  }
}

/** A field for a number, date or time. Values outside the range of the training data are allowed. */
class FieldInput {
  constructor(column, onChange) {
    const { type, value_type: valueType, range: [low, high] } = column;
    const isDate = valueType.startsWith("date");
    this.isNumber = type !== "datetime";
    this.zone = valueType.includes("tz=") ? "Z" : ""; // times with a zone are shown in UTC
    this.length = isDate ? 10 : 19;
    const field = this.isNumber ? { type: "number", inputMode: "decimal", step: type === "integer" ? 1 : "any" } : { type: isDate ? "date" : "datetime-local", step: isDate ? null : 1 };
    this.element = h("input", { ...field, placeholder: "(empty)", min: this.#text(low), max: this.#text(high), oninput: onChange });
    this.range = `${shownValue(low, column)} … ${shownValue(high, column)}`;
  }

  /** The value for a request. Whole numbers that JavaScript cannot represent stay texts. */
  get value() {
    const { value } = this.element;
    if (value === "") return undefined;
    if (!this.isNumber) return value.length === 16 ? `${value}:00${this.zone}` : value + (this.length === 10 ? "" : this.zone);
    return Math.abs(Number(value)) <= Number.MAX_SAFE_INTEGER ? Number(value) : value;
  }

  set(value) {
    this.element.value = value === null || value === undefined ? "" : this.#text(value);
  }

  /** Return a value as the text of the field; times are converted to UTC. */
  #text(value) {
    if (this.isNumber) return String(value);
    return (this.zone ? new Date(value).toISOString() : value).slice(0, this.length);
  }
}
