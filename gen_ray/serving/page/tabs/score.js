/** The Score tab: the negative log-likelihood of an instance in bits per dimension. */

import * as api from "../api.js";
import { h, labelledField } from "../dom.js";
import { formatValue } from "../format.js";
import { instanceInput } from "../instance_input.js";
import { rendererFor } from "../renderers.js";
import { RunControls } from "../run_controls.js";

export const scoreTab = { id: "score", title: "Score", formula: "−log₂ p(x) / D", verb: "score", build };

function build(ctx) {
  const { card } = ctx;
  const effort = h("input", { type: "number", inputMode: "numeric", min: 1, step: 1, placeholder: "default" });
  const allBits = [];
  const list = h("ol.scores", { reversed: true, "aria-label": "Scores, newest first" });
  const runControls = new RunControls("Score", async ({ signal, onBusy }) => {
    const instances = input.completeInstances();
    runControls.showStatus("Computing …");
    const result = await api.postForJson(card.id, "score", { ...instances, seed: ctx.seed(), ...(effort.value ? { effort: Number(effort.value) } : {}) }, { signal, onBusy });
    const score = scoreParagraph(result);
    list.prepend(h("li", {}, thumbnail(card, instances), score));
    allBits.unshift(result.bits_per_dim[0]);
    updateScoreLines(list, allBits);
    return score.textContent;
  });
  const input = instanceInput(ctx, runControls, { withMask: false });
  const effortHint = h("p.summary", {}, "Number of draws per instance: importance samples or time steps. More draws reduce the error.");
  const form = h("form.controls", { onsubmit: ctx.submitHandler(runControls) }, labelledField("Effort", effort), effortHint, runControls.element);
  return {
    element: h("div.panel", {}, input.element, form, h("section.gallery", {}, list)),
    onOpen: () => input.onOpen(),
    setInstance: (sample) => input.setInstance(sample),
    run: () => form.requestSubmit(),
    stop: () => runControls.stop(),
  };
}

/** Return a paragraph such as 2.31 ± 0.02 bits/dim (elbo). */
function scoreParagraph(result) {
  const [bits, error] = [result.bits_per_dim[0], result.standard_error[0]];
  const kind = result.kind ?? result.notes?.kind;
  return h("p", {}, h("strong", {}, bits.toFixed(3)), ` ± ${formatValue(error)} bits/dim`, kind ? h("span.likelihood-kind", {}, ` (${kind})`) : null);
}

/** Set the length of the line below each score to its ratio to the highest score, for comparison. */
function updateScoreLines(list, allBits) {
  const highest = Math.max(...allBits);
  allBits.forEach((bits, i) => list.children[i].style.setProperty("--ratio", Math.max(0, bits / highest)));
}

/** Return a small view of the scored instance. */
function thumbnail(card, { images, texts }) {
  if (texts) return h("q", {}, texts[0].slice(0, 60));
  const renderer = rendererFor(card);
  const view = renderer.createView("Scored image");
  renderer.show(view, images[0]);
  return view;
}
