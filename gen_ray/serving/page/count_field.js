/** A number field for a sample count, limited by the model and stored in the URL. */

import { labelledField, h } from "./dom.js";
import { rendererFor } from "./renderers.js";
import * as urlState from "./url_state.js";

/** Return the control {element, value}; name is its key in the URL. */
export function countField(label, name, card) {
  const max = card.limits?.n ?? 64;
  const fallback = Math.min(max, rendererFor(card).kind === "image" ? 16 : 4);
  const value = urlState.readInteger(name, 1, max, fallback);
  const input = h("input", { type: "number", inputMode: "numeric", min: 1, max, step: 1, required: true, value, oninput: () => urlState.write({ [name]: input.value }) });
  return { element: labelledField(label, input, h("span.allowed-range", {}, `1 … ${max}`)), get value() { return Number(input.value); } };
}
