/** The Fill tab: completions of an instance of which a part is known. */

import { Bar } from "../bar.js";
import { Chooser } from "../chooser.js";
import { counted } from "../counted.js";
import { h, reveal } from "../dom.js";
import { Gallery } from "../gallery.js";
import { sampled } from "../sampled.js";
import { subjectOf } from "../subject.js";

export const fill = { id: "fill", title: "Fill", formula: "x ∼ p(x | part of x)", verb: "impute", build };

function build(ctx) {
  const { card } = ctx;
  const chooser = new Chooser(card, "imputer", {}, () => {});
  const k = counted("Completions", "k", card);
  const gallery = new Gallery(card, ctx.carry);
  const bar = new Bar("Fill", (tools) => {
    const given = subject.holed();
    reveal(gallery.element);
    return sampled(gallery, "impute", { ...given, n: k.value, seed: ctx.seed(), ...chooser.value() }, tools, given.text);
  });
  const subject = subjectOf(ctx, bar, { holes: true });
  const form = h("form.controls", { onsubmit: ctx.submits(bar) }, chooser.element, k.element, bar.element);
  return {
    element: h("div.panel", {}, subject.element, form, gallery.element),
    enter: () => subject.enter(),
    take: (sample) => subject.take(sample),
    run: () => form.requestSubmit(),
    close: () => bar.stop(),
  };
}
