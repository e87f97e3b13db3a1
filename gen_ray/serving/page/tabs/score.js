/** The Score tab: the negative log-likelihood of an instance in bits per dimension. */

import * as api from "../api.js";
import { Bar } from "../bar.js";
import { field, h } from "../dom.js";
import { mediumOf } from "../medium.js";
import { figure } from "../say.js";
import { subjectOf } from "../subject.js";

export const score = { id: "score", title: "Score", formula: "−log₂ p(x) / D", verb: "score", build };

function build(ctx) {
  const { card } = ctx;
  const effort = h("input", { type: "number", inputMode: "numeric", min: 1, step: 1, placeholder: "default" });
  const bits = [];
  const list = h("ol.scores", { reversed: true, "aria-label": "Scores, the newest first" });
  const bar = new Bar("Score", async ({ signal, busy }) => {
    const whole = subject.whole();
    bar.tell("Computing …");
    const answer = await api.post(card.id, "score", { ...whole, seed: ctx.seed(), ...(effort.value ? { effort: Number(effort.value) } : {}) }, { signal, busy });
    const line = scored(answer);
    list.prepend(h("li", {}, pictured(card, whole), line));
    bits.unshift(answer.bits_per_dim[0]);
    rule(list, bits);
    return line.textContent;
  });
  const subject = subjectOf(ctx, bar, { holes: false });
  const more = "More effort gives a smaller error. Its unit depends on the kind of likelihood.";
  const form = h("form.controls", { onsubmit: ctx.submits(bar) }, field("Effort", effort), h("p.summary", {}, more), bar.element);
  return {
    element: h("div.panel", {}, subject.element, form, h("section.gallery", {}, list)),
    enter: () => subject.enter(),
    take: (sample) => subject.take(sample),
    run: () => form.requestSubmit(),
    close: () => bar.stop(),
  };
}

/** Return a paragraph such as 2.31 ± 0.02 bits/dim, with the kind of likelihood. */
function scored(answer) {
  const [bits, error] = [answer.bits_per_dim[0], answer.standard_error[0]];
  const kind = answer.kind ?? answer.notes?.kind;
  return h("p", {}, h("strong", {}, bits.toFixed(3)), ` ± ${figure(error)} bits/dim`, kind ? h("span.kind", {}, ` (${kind})`) : null);
}

/** Set the length of each score's underline to its fraction of the highest, for comparison. */
function rule(list, bits) {
  const highest = Math.max(...bits);
  bits.forEach((value, i) => list.children[i].style.setProperty("--share", Math.max(0, value / highest)));
}

/** Return a small view of the scored instance. */
function pictured(card, { images, texts }) {
  if (texts) return h("q", {}, texts[0].slice(0, 60));
  const medium = mediumOf(card);
  const view = medium.view("Scored picture");
  medium.put(view, images[0]);
  return view;
}
