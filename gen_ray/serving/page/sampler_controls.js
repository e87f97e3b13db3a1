/** Controls for a sampler or imputer, its options and number of steps, and the plot of its measured quality. */

import { h, labelledField, radioGroup } from "./dom.js";
import { countOf } from "./format.js";
import { QualityPlot } from "./quality_plot.js";

const SLIDER_POSITIONS = 1000; // the slider of steps has a logarithmic scale

/** Split NAME:option=value,… */
export function parseSampler(text) {
  const [name, tail = ""] = text.split(":");
  return { name, options: Object.fromEntries(tail.split(",").filter(Boolean).map((item) => item.split("="))) };
}

export class SamplerControls {
  /**
   * @param card the model's card
   * @param {"sampler"|"imputer"} kind
   * @param {{sampler?: string, steps?: number}} initial initial values, used if the model supports them
   * @param {(controls: SamplerControls) => void} onChange is called after every change, including the initial one
   * @param {boolean} withPlot whether the measured quality is plotted
   */
  constructor(card, kind, initial, onChange, withPlot = true) {
    this.samplers = kind === "sampler" ? card.samplers : (card.imputers ?? {});
    this.maxSteps = card.limits?.steps ?? 1000;
    this.onChange = onChange;
    const names = Object.keys(this.samplers);
    this.select = h("select", { onchange: () => this.set({ sampler: this.select.value }) }, ...names.map((name) => h("option", {}, name)));
    this.summary = h("p.summary");
    this.options = h("div.options");
    this.slider = h("input", { type: "range", min: 0, max: SLIDER_POSITIONS, "aria-label": "Steps (slider)", oninput: () => this.readSlider() });
    this.steps = h("input", { type: "number", min: 1, max: this.maxSteps, inputMode: "numeric", oninput: () => this.showSteps() });
    this.stepsField = labelledField("Steps", this.slider, this.steps);
    this.stepsField.firstChild.htmlFor = this.steps.id = `${this.slider.id}-number`;
    this.cost = h("p.cost");
    const quality = kind === "sampler" ? this.createQualityControls(card, withPlot) : [];
    const select = labelledField(kind === "sampler" ? "Sampler" : "Imputer", this.select);
    this.element = h("div.sampler-controls", {}, ...quality, select, this.summary, this.options, this.stepsField, this.cost);
    const fallback = kind === "sampler" ? card.default : { sampler: names[0] };
    this.set(parseSampler(initial.sampler ?? "").name in this.samplers ? initial : fallback);
  }

  /** Return the fields for a request, without empty options, and without steps if their number is fixed. */
  value() {
    const options = [...this.options.querySelectorAll("input")].filter((input) => input.value !== "").map((input) => `${input.name}=${input.value}`);
    const sampler = this.select.value + (options.length ? `:${options.join(",")}` : "");
    return this.hasFixedSteps ? { sampler } : { sampler, steps: Number(this.steps.value) };
  }

  /** Select a sampler; if steps is missing, with its default number. */
  set({ sampler, steps }) {
    const { name, options } = parseSampler(sampler);
    const entry = this.samplers[name];
    this.select.value = name;
    this.summary.textContent = entry.summary ?? "";
    this.options.replaceChildren(...Object.entries(entry.options ?? {}).map(([option, range]) => this.createOption(option, range, options[option])));
    // default_steps is 1 exactly where the number is fixed: a decoder, an autoregressive order, an adaptive solver
    this.hasFixedSteps = entry.default_steps === 1;
    this.stepsField.hidden = this.hasFixedSteps;
    this.steps.min = this.minSteps = entry.least_steps ?? 1;
    this.steps.value = steps ?? entry.default_steps;
    this.showSteps();
  }

  createOption(name, [min, max], value = "") {
    const input = h("input", { name, type: "number", min, max, step: "any", value, placeholder: "default", oninput: () => this.update() });
    return labelledField(name, input, h("span.allowed-range", {}, `${min} … ${max}`));
  }

  /** Create the radio buttons of the quality levels and the plot, or null where nothing was measured. */
  createQualityControls(card, withPlot) {
    this.levels = card.quality ?? {};
    const names = Object.fromEntries(Object.keys(this.levels).map((name) => [name, name]));
    this.levelButtons = Object.keys(names).length ? radioGroup("Quality", names, null, (name) => this.set(this.levels[name])) : null;
    this.plot = withPlot && card.curve?.length ? new QualityPlot(card, (point) => this.set(point)) : null;
    return [this.levelButtons, this.plot?.element];
  }

  /** Set the number of steps from the slider. */
  readSlider() {
    this.steps.value = Math.round(this.minSteps * (this.maxSteps / this.minSteps) ** (this.slider.value / SLIDER_POSITIONS));
    this.update();
  }

  /** Show the number of steps on the slider. */
  showSteps() {
    const position = Math.log(Math.max(1, this.steps.value / this.minSteps)) / Math.log(Math.max(2, this.maxSteps / this.minSteps));
    this.slider.value = SLIDER_POSITIONS * position;
    this.slider.setAttribute("aria-valuetext", countOf(Number(this.steps.value), "step"));
    this.update();
  }

  /** Update everything that depends on the setting. */
  update() {
    const { sampler, steps = 1 } = this.value();
    const entry = this.samplers[this.select.value];
    this.cost.textContent = `about ${countOf(entry.nfe_per_step * steps, "network evaluation")} per sample`;
    this.plot?.markSetting(sampler, steps);
    this.checkLevel(sampler, steps);
    this.onChange(this);
  }

  /** Check the radio button of the matching quality level, if any. If several match, the checked one stays. */
  checkLevel(sampler, steps) {
    const radios = [...(this.levelButtons?.querySelectorAll("input") ?? [])];
    const matching = radios.filter(({ value }) => this.levels[value].sampler === sampler && this.levels[value].steps === steps);
    if (matching.some((radio) => radio.checked)) return;
    for (const radio of radios) radio.checked = radio === matching[0];
  }
}
