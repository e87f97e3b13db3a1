/** The button that chooses a random seed, shown as a die. */

import { svg } from "./dom.js";

const PIP_CELLS = [[], [4], [2, 6], [2, 4, 6], [0, 2, 6, 8], [0, 2, 4, 6, 8], [0, 2, 3, 5, 6, 8]]; // cells of a 3 x 3 grid

/** Return a picture of a die that shows (seed modulo 6) + 1. */
export function dieIcon(seed) {
  const pips = PIP_CELLS[(seed % 6) + 1].map((cell) => svg("circle", { cx: 6 + 6 * (cell % 3), cy: 6 + 6 * Math.floor(cell / 3), r: 1.9 }));
  return svg("svg", { viewBox: "0 0 24 24", width: 24, height: 24, "aria-hidden": "true" }, svg("rect", { x: 1.5, y: 1.5, width: 21, height: 21, rx: 4 }), ...pips);
}

/** Return a random seed of at most six digits. */
export function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
}
