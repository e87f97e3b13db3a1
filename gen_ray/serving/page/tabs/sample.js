/** The Sample tab: samples of a model, with previews. */

import { countField } from "../count_field.js";
import { h, scrollIntoUpperView } from "../dom.js";
import { RunControls } from "../run_controls.js";
import { SampleGallery } from "../sample_gallery.js";
import { SamplerControls } from "../sampler_controls.js";
import { streamSamples } from "../stream_samples.js";
import * as urlState from "../url_state.js";

export const sampleTab = { id: "sample", title: "Sample", formula: "x ∼ p(x)", verb: "sample", runsFromLink: true, build };

function build(ctx) {
  const { card } = ctx;
  const initial = { sampler: urlState.read().sampler, steps: urlState.readInteger("steps", 1, Infinity, undefined) };
  const samplerControls = new SamplerControls(card, "sampler", initial, (controls) => urlState.write({ steps: null, ...controls.value() }));
  const n = countField("Number of samples", "n", card);
  const gallery = new SampleGallery(card, ctx.openInTab);
  gallery.reserveTiles(n.value);
  const runControls = new RunControls("Sample", (tools) => {
    const body = { n: n.value, seed: ctx.seed(), ...samplerControls.value() };
    scrollIntoUpperView(gallery.element);
    return streamSamples(gallery, "sample", body, tools);
  });
  const form = h("form.controls", { onsubmit: ctx.submitHandler(runControls) }, samplerControls.element, n.element, runControls.element);
  return { element: h("div.panel", {}, form, gallery.element), run: () => form.requestSubmit(), stop: () => runControls.stop() };
}
