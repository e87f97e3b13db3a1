/** A map of decoded images on which a point of a two-dimensional latent space can be chosen. */

import * as api from "./api.js";
import { h } from "./dom.js";
import { loadImage, rendererFor } from "./renderers.js";

const LIMIT = 3; // standard deviations from the centre to the edge
const MAX_SIDE = 15; // maximum number of images per side, as in the figure of Kingma & Welling

export class LatentMap {
  /** @param onMove is called with [z₁, z₂] while the point is dragged */
  constructor(card, onMove) {
    this.card = card;
    this.renderer = rendererFor(card);
    this.canvas = h("canvas", { width: 1, height: 1 });
    this.marker = h("div.marker");
    // hidden from screen readers, because the sliders next to it do the same by keyboard
    this.element = h("div.latent-map", { "aria-hidden": "true" }, this.canvas, this.marker);
    this.element.addEventListener("pointerdown", (event) => {
      this.element.setPointerCapture(event.pointerId);
      this.dragging = true;
      onMove(this.zAt(event));
    });
    this.element.addEventListener("pointermove", (event) => this.dragging && onMove(this.zAt(event)));
    for (const end of ["pointerup", "pointercancel"]) this.element.addEventListener(end, () => (this.dragging = false));
  }

  /** Show the position of z. */
  showMarker([z1, z2]) {
    const percent = (fraction) => `${100 * clip(fraction)}%`;
    this.marker.style.left = percent((z1 + LIMIT) / (2 * LIMIT));
    this.marker.style.top = percent((LIMIT - z2) / (2 * LIMIT));
  }

  /** Return z at the position of an event, rounded to two decimals. */
  zAt({ clientX, clientY }) {
    const { left, top, width, height } = this.element.getBoundingClientRect();
    const round = (value) => Math.round(value * 100) / 100;
    return [round(LIMIT * (2 * clip((clientX - left) / width) - 1)), round(LIMIT * (1 - 2 * clip((clientY - top) / height)))];
  }

  /** Decode a grid of points and draw the images, once. Errors are ignored, because a point can be chosen without them. */
  async drawImages() {
    if (this.drawn || this.renderer.kind !== "image") return;
    this.drawn = true;
    const side = Math.min(MAX_SIDE, Math.floor(Math.sqrt(this.card.limits?.n ?? 64)));
    const z = Array.from({ length: side * side }, (_, i) => [cellCentre(i % side, side), -cellCentre(Math.floor(i / side), side)]);
    const result = await api.postForJson(this.card.id, "decode", { z, format: "png" }).catch((error) => error);
    if (!result.samples) return;
    const { width, height } = this.renderer;
    Object.assign(this.canvas, { width: side * width, height: side * height });
    const context = this.canvas.getContext("2d");
    (await Promise.all(result.samples.map(loadImage))).forEach((image, i) => context.drawImage(image, (i % side) * width, Math.floor(i / side) * height));
  }
}

/** Clip a number to 0 … 1. */
function clip(fraction) {
  return Math.min(Math.max(fraction, 0), 1);
}

/** Return the coordinate at the centre of the i-th of n equal intervals of −LIMIT … LIMIT. */
function cellCentre(i, n) {
  return LIMIT * ((2 * i + 1) / n - 1);
}
