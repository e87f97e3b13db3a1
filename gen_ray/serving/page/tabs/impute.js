/** The Impute tab: completions of an instance with missing values. */

import { countField } from "../count_field.js";
import { h, scrollIntoUpperView } from "../dom.js";
import { instanceInput } from "../instance_input.js";
import { RunControls } from "../run_controls.js";
import { SampleGallery } from "../sample_gallery.js";
import { SamplerControls } from "../sampler_controls.js";
import { streamSamples } from "../stream_samples.js";

export const imputeTab = { id: "impute", title: "Impute", formula: "x ∼ p(x | known x)", verb: "impute", build };

function build(ctx) {
  const { card } = ctx;
  const samplerControls = new SamplerControls(card, "imputer", {}, () => {});
  const n = countField("Number of completions", "k", card);
  const gallery = new SampleGallery(card, ctx.openInTab);
  const runControls = new RunControls("Impute", (tools) => {
    const instance = input.partialInstance();
    scrollIntoUpperView(gallery.element);
    return streamSamples(gallery, "impute", { ...instance, n: n.value, seed: ctx.seed(), ...samplerControls.value() }, tools, instance.text);
  });
  const input = instanceInput(ctx, runControls, { withMask: true });
  const form = h("form.controls", { onsubmit: ctx.submitHandler(runControls) }, samplerControls.element, n.element, runControls.element);
  return {
    element: h("div.panel", {}, input.element, form, gallery.element),
    onOpen: () => input.onOpen(),
    setInstance: (sample) => input.setInstance(sample),
    run: () => form.requestSubmit(),
    stop: () => runControls.stop(),
  };
}
