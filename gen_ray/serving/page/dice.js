/** The dice button next to the seed. */

import { svg } from "./dom.js";

const PLACES = [[], [4], [2, 6], [2, 4, 6], [0, 2, 6, 8], [0, 2, 4, 6, 8], [0, 2, 3, 5, 6, 8]];

/** Return the dice face of a seed: seed modulo 6, plus 1. */
export function face(seed) {
  const pips = PLACES[(seed % 6) + 1].map((place) => svg("circle", { cx: 6 + 6 * (place % 3), cy: 6 + 6 * Math.floor(place / 3), r: 1.9 }));
  return svg("svg", { viewBox: "0 0 24 24", width: 24, height: 24, "aria-hidden": "true" }, svg("rect", { x: 1.5, y: 1.5, width: 21, height: 21, rx: 4 }), ...pips);
}

/** Return a random seed of at most six digits. */
export function roll() {
  return crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
}
