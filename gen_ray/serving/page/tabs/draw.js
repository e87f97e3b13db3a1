/** The Draw tab: samples of a model, with previews. */

import { Bar } from "../bar.js";
import { Chooser } from "../chooser.js";
import { counted } from "../counted.js";
import { h, reveal } from "../dom.js";
import { Gallery } from "../gallery.js";
import * as link from "../link.js";
import { sampled } from "../sampled.js";

export const draw = { id: "draw", title: "Draw", formula: "x ∼ p(x)", verb: "sample", shared: true, build };

function build(ctx) {
  const { card } = ctx;
  const first = { sampler: link.read().sampler, steps: link.whole("steps", 1, Infinity, undefined) };
  const chooser = new Chooser(card, "sampler", first, (chosen) => link.write({ steps: null, ...chosen.value() }));
  const n = counted("Samples", "n", card);
  const gallery = new Gallery(card, ctx.carry);
  gallery.expect(n.value);
  const bar = new Bar("Draw", (tools) => {
    const body = { n: n.value, seed: ctx.seed(), ...chooser.value() };
    reveal(gallery.element);
    return sampled(gallery, "sample", body, tools);
  });
  const form = h("form.controls", { onsubmit: ctx.submits(bar) }, chooser.element, n.element, bar.element);
  return { element: h("div.panel", {}, form, gallery.element), run: () => form.requestSubmit(), close: () => bar.stop() };
}
