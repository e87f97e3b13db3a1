/** The Compare tab: samples of two models, or of two samplers, side by side from one seed. */

import { countField } from "../count_field.js";
import { h, labelledField, scrollIntoUpperView } from "../dom.js";
import { RunControls } from "../run_controls.js";
import { SampleGallery } from "../sample_gallery.js";
import { SamplerControls } from "../sampler_controls.js";
import { streamSamples } from "../stream_samples.js";
import * as urlState from "../url_state.js";

export const compareTab = { id: "compare", title: "Compare", formula: "p(x), q(x)", verb: "sample", runsFromLink: true, build };

function build(ctx) {
  const n = countField("Samples per model", "n", ctx.card);
  const p = new ComparedModel(ctx, "p", { sampler: "sampler", steps: "steps" });
  const q = new ComparedModel(ctx, "q", { sampler: "with_sampler", steps: "with_steps" });
  const available = ctx.cards.filter((card) => card.ready && card.verbs.includes("sample"));
  const select = h("select", { onchange: () => selectSecond(select.value) }, ...available.map(({ id }) => h("option", {}, id)));
  const selectSecond = (id) => {
    select.value = id;
    urlState.write({ with: id });
    q.setModel(available.find((card) => card.id === id));
  };
  p.setModel(ctx.card);
  selectSecond(initialSecond(ctx.card, available).id);
  const runControls = new RunControls("Sample both", (tools) => {
    scrollIntoUpperView(p.results);
    return runBoth([p, q], n.value, tools);
  });
  const first = h("div", {}, h("p.summary", {}, `${ctx.card.id} (the model selected above)`));
  const second = h("div", {}, labelledField("Compare with", select));
  const shared = h("div.shared-controls", {}, n.element, runControls.element);
  const form = h("form.compare-controls", { onsubmit: ctx.submitHandler(runControls) }, p.createControls(first), q.createControls(second), shared);
  return { element: h("div.panel.compare", {}, form, p.results, q.results), run: () => form.requestSubmit(), stop: () => runControls.stop() };
}

/** Return the second model in the URL, otherwise another model of the same data, otherwise the same model. */
function initialSecond(card, available) {
  return available.find(({ id }) => id === urlState.read().with) ?? available.find((other) => other !== card && other.data.name === card.data.name) ?? card;
}

/** Sample from both models concurrently; one progress bar shows the total. */
async function runBoth(models, n, tools) {
  const progress = models.map(() => [0, 0]); // [done, total] of each
  const runs = models.map((model, i) => {
    const onProgress = (done, total) => {
      progress[i] = [done, total];
      tools.onProgress(progress[0][0] + progress[1][0], progress[0][1] + progress[1][1]);
    };
    return model.run(n, { ...tools, onProgress });
  });
  const failed = (await Promise.allSettled(runs)).find(({ status }) => status === "rejected");
  if (failed) throw failed.reason;
  return "Done.";
}

/** One side of the comparison: a model, its sampler controls and its gallery. */
class ComparedModel {
  /** @param {{sampler: string, steps: string}} urlKeys the keys of the settings in the URL */
  constructor(ctx, letter, urlKeys) {
    Object.assign(this, { ctx, letter, urlKeys });
    this.settings = h("div");
    this.results = h("div.compare-results");
  }

  createControls(model) {
    return h("fieldset", {}, h("legend", {}, h("i", {}, this.letter)), model, this.settings);
  }

  setModel(card) {
    const { sampler, steps } = this.urlKeys;
    const initial = { sampler: urlState.read()[sampler], steps: urlState.readInteger(steps, 1, Infinity, undefined) };
    const writeUrl = (controls) => urlState.write({ [steps]: null, ...renameKeys(controls.value(), this.urlKeys) });
    this.samplerControls = new SamplerControls(card, "sampler", initial, writeUrl, false);
    this.gallery = new SampleGallery(card, (verb, sample) => this.ctx.openInTab(verb, sample, card.id));
    this.settings.replaceChildren(this.samplerControls.element);
    this.results.replaceChildren(h("h2", {}, h("i", {}, this.letter), ` ${card.id}`), this.gallery.element);
  }

  run(n, tools) {
    return streamSamples(this.gallery, "sample", { n, seed: this.ctx.seed(), ...this.samplerControls.value() }, tools);
  }
}

function renameKeys(object, newKeys) {
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [newKeys[key], value]));
}
