/** The Row tab of tables: edit a row, empty cells and impute them, and see which cell is unusual. */

import * as api from "../api.js";
import { h, labelledField } from "../dom.js";
import { countOf, provenance } from "../format.js";
import { randomSeed } from "../random_seed.js";
import { RowEditor } from "../row_editor.js";
import { RunControls } from "../run_controls.js";
import { SamplerControls } from "../sampler_controls.js";

const COMPLETIONS = 20; // the fewest that give a 90 % interval where the model has no exact one

export const rowTab = { id: "row", title: "Row", formula: "x ∼ p(x | known x)", verb: "impute", build };

function build(ctx) {
  const tab = new RowTab(ctx);
  return { element: tab.element, setInstance: (row) => tab.editor.setRow(row), run: () => tab.form.requestSubmit(), stop: () => tab.runControls.stop() };
}

class RowTab {
  constructor(ctx) {
    this.ctx = ctx;
    this.samplerControls = new SamplerControls(ctx.card, "imputer", {}, () => {});
    const max = ctx.card.limits?.n ?? 64;
    this.n = h("input", { type: "number", inputMode: "numeric", min: 1, max, step: 1, required: true, value: Math.min(max, COMPLETIONS) });
    this.provenance = h("p.provenance");
    this.fillButton = button("Fill in a completion", () => this.fillNext());
    this.editor = new RowEditor(ctx.card.data, () => this.forgetCompletions());
    this.runControls = new RunControls("Impute", (tools) => this.impute(tools));
    this.element = h("div.panel", {}, this.createForm(max), this.createView());
    this.forgetCompletions();
  }

  createForm(max) {
    const n = labelledField("Number of completions", this.n, h("span.allowed-range", {}, `1 … ${max}`));
    const actions = h(
      "div.row", {}, button("Sample a row", () => this.runControls.start((tools) => this.sample(tools))),
      this.ctx.card.verbs.includes("score") ? button("Bits of each cell", () => this.runControls.start((tools) => this.score(tools))) : null,
      button("Empty all cells", () => this.editor.setRow({})), this.fillButton,
    );
    const hint = h("p.summary", {}, "Empty the cells that you do not know, and impute them. The bits of a cell say how unusual its value is, given the others.");
    this.form = h("form.controls", { noValidate: true, onsubmit: (event) => this.submit(event) }, hint, actions, this.samplerControls.element, n, this.runControls.element);
    return this.form;
  }

  createView() {
    return h("section.instance-input", { "aria-label": "Row" }, h("div.table-scroll", {}, this.editor.element), this.provenance);
  }

  /** Start to impute, unless the seed or the number of completions is wrong. Values outside their range are allowed. */
  submit(event) {
    event.preventDefault();
    if (this.n.reportValidity()) this.ctx.submitHandler(this.runControls)(event);
  }

  forgetCompletions() {
    this.completions = [];
    this.fillButton.hidden = true;
    this.provenance.textContent = "";
  }

  async sample(tools) {
    this.runControls.showStatus("Sampling from the model …");
    const { samples } = await this.ask("sample", { n: 1, seed: randomSeed() }, tools);
    this.editor.setRow(samples[0]);
    return "";
  }

  async impute(tools) {
    if (!this.editor.hasEmptyCells) throw new api.ApiError(0, { message: "No cell is empty. Empty the cells to impute." });
    this.runControls.showStatus("Computing …");
    const body = { rows: [this.editor.row], n: Number(this.n.value), seed: this.ctx.seed(), ...this.samplerControls.value() };
    const result = await this.ask("impute", body, tools);
    this.editor.showImputed(result.imputed[0]);
    this.completions = result.samples;
    this.fillButton.hidden = false;
    this.provenance.textContent = provenance(result, body.seed);
    return `Done: ${result.notes.statistics}.${unknownValues(result)}`;
  }

  async score(tools) {
    this.runControls.showStatus("Computing …");
    const result = await this.ask("score", { rows: [this.editor.row], seed: this.ctx.seed() }, tools);
    const unusual = this.editor.showBits(result.cells?.[0] ?? {});
    return `${result.bits[0].toFixed(1)} bits for the row (${result.notes.kind}).${unusual ? ` Most unusual: ${unusual}.` : ""}${unknownValues(result)}`;
  }

  /** Fill the empty cells with the next completion: its values belong together. */
  fillNext() {
    const [next, ...others] = this.completions;
    this.editor.fill(next);
    this.runControls.showStatus(`Filled in one of ${countOf(others.length + 1, "completion")}.`);
  }

  ask(verb, body, { signal, onBusy }) {
    return api.postForJson(this.ctx.card.id, verb, { ...body, format: "json" }, { signal, onBusy });
  }
}

/** Return a sentence on values that the model treats as "other". */
function unknownValues({ notes }) {
  const columns = Object.keys(notes.treated_as_other ?? {});
  return columns.length ? ` The model does not know the value of ${columns.join(", ")} and treats it as other.` : "";
}

function button(label, onclick) {
  return h("button.secondary", { type: "button", onclick }, label);
}
