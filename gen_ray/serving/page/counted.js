/** A number field for the sample count, limited by the model and stored in the link. */

import { field, h } from "./dom.js";
import * as link from "./link.js";
import { mediumOf } from "./medium.js";

/** Return the control {element, value}; name is its key in the link. */
export function counted(title, name, card) {
  const most = card.limits?.n ?? 64;
  const usual = Math.min(most, mediumOf(card).kind === "picture" ? 16 : 4);
  const value = link.whole(name, 1, most, usual);
  const input = h("input", { type: "number", inputMode: "numeric", min: 1, max: most, step: 1, required: true, value, oninput: () => link.write({ [name]: input.value }) });
  return { element: field(title, input, h("span.range", {}, `1 … ${most}`)), get value() { return Number(input.value); } };
}
