/** A pad for choosing a point of a two-dimensional latent space, over a map of decoded pictures. */

import * as api from "./api.js";
import { h } from "./dom.js";
import { mediumOf, picture } from "./medium.js";

const REACH = 3; // standard deviations from the centre to the edge
const MOST = 15; // maximum pictures per side of the map, as in Kingma & Welling's figure

export class Pad {
  /** @param moved is called with [z₁, z₂] while the point is dragged */
  constructor(card, moved) {
    this.card = card;
    this.medium = mediumOf(card);
    this.survey_ = h("canvas", { width: 1, height: 1 });
    this.dot = h("div.dot");
    // the sliders next to it do the same with keys and are available to screen readers
    this.element = h("div.pad", { "aria-hidden": "true" }, this.survey_, this.dot);
    this.element.addEventListener("pointerdown", (event) => {
      this.element.setPointerCapture(event.pointerId);
      this.held = true;
      moved(this.z(event));
    });
    this.element.addEventListener("pointermove", (event) => this.held && moved(this.z(event)));
    for (const end of ["pointerup", "pointercancel"]) this.element.addEventListener(end, () => (this.held = false));
  }

  /** Show the position of z. */
  point([first, second]) {
    const within = (share) => `${100 * Math.min(Math.max(share, 0), 1)}%`;
    this.dot.style.left = within((first + REACH) / (2 * REACH));
    this.dot.style.top = within((REACH - second) / (2 * REACH));
  }

  z({ clientX, clientY }) {
    const { left, top, width, height } = this.element.getBoundingClientRect();
    const within = (share) => Math.min(Math.max(share, 0), 1);
    const round = (value) => Math.round(value * 100) / 100;
    return [round(REACH * (2 * within((clientX - left) / width) - 1)), round(REACH * (1 - 2 * within((clientY - top) / height)))];
  }

  /** Decode a grid over the plane, once. Errors are ignored, because the pad also works without the map. */
  async survey() {
    if (this.surveyed || this.medium.kind !== "picture") return;
    this.surveyed = true;
    const side = Math.min(MOST, Math.floor(Math.sqrt(this.card.limits?.n ?? 64)));
    const z = Array.from({ length: side * side }, (_, i) => [middle(i % side, side), -middle(Math.floor(i / side), side)]);
    const answer = await api.post(this.card.id, "decode", { z, format: "png" }).catch((error) => error);
    if (!answer.samples) return;
    const { width, height } = this.medium;
    Object.assign(this.survey_, { width: side * width, height: side * height });
    const context = this.survey_.getContext("2d");
    (await Promise.all(answer.samples.map(picture))).forEach((image, i) => context.drawImage(image, (i % side) * width, Math.floor(i / side) * height));
  }
}

/** Return z at the centre of the i-th of ``side`` intervals. */
function middle(i, side) {
  return REACH * ((2 * i + 1) / side - 1);
}
