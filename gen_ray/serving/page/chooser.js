/** Controls for a sampler or imputer, its options and number of steps, and the measured curve. */

import { Curve } from "./curve.js";
import { field, h, segmented } from "./dom.js";
import { many } from "./say.js";

const TICKS = 1000; // positions of the slider of steps, whose scale is logarithmic

/** Split NAME:option=value,… */
export function parse(text) {
  const [name, tail = ""] = text.split(":");
  return { name, options: Object.fromEntries(tail.split(",").filter(Boolean).map((item) => item.split("="))) };
}

export class Chooser {
  /**
   * @param card the model's card
   * @param {"sampler"|"imputer"} kind
   * @param {{sampler?: string, steps?: number}} first initial values, if the model supports them
   * @param {(chosen: Chooser) => void} changed is called after every choice, including the first
   * @param {boolean} drawn whether the measured curve is shown
   */
  constructor(card, kind, first, changed, drawn = true) {
    this.known = kind === "sampler" ? card.samplers : (card.imputers ?? {});
    this.most = card.limits?.steps ?? 1000;
    this.changed = changed;
    const names = Object.keys(this.known);
    this.select = h("select", { onchange: () => this.pick({ sampler: this.select.value }) }, ...names.map((name) => h("option", {}, name)));
    this.summary = h("p.summary");
    this.options = h("div.options");
    this.slider = h("input", { type: "range", min: 0, max: TICKS, "aria-label": "Steps, as a slider", oninput: () => this.slid() });
    this.steps = h("input", { type: "number", min: 1, max: this.most, inputMode: "numeric", oninput: () => this.typed() });
    this.stepping = field("Steps", this.slider, this.steps);
    this.stepping.firstChild.htmlFor = this.steps.id = `${this.slider.id}-number`;
    this.cost = h("p.cost");
    const measured = kind === "sampler" ? this.measured(card, drawn) : [];
    this.element = h("div.chooser", {}, ...measured, field(kind === "sampler" ? "Sampler" : "Imputer", this.select), this.summary, this.options, this.stepping, this.cost);
    const usual = kind === "sampler" ? card.default : { sampler: names[0] };
    this.pick(parse(first.sampler ?? "").name in this.known ? first : usual);
  }

  /** Return the fields for a request. Empty options are left out, and also steps if their number is fixed. */
  value() {
    const said = [...this.options.querySelectorAll("input")].filter((input) => input.value !== "").map((input) => `${input.name}=${input.value}`);
    const sampler = this.select.value + (said.length ? `:${said.join(",")}` : "");
    return this.fixed ? { sampler } : { sampler, steps: Number(this.steps.value) };
  }

  /** Choose a sampler; without steps, with its default number. */
  pick({ sampler, steps }) {
    const { name, options } = parse(sampler);
    const about = this.known[name];
    this.select.value = name;
    this.summary.textContent = about.summary ?? "";
    this.options.replaceChildren(...Object.entries(about.options ?? {}).map(([option, range]) => this.option(option, range, options[option])));
    // default_steps is 1 exactly where the number is fixed: a decoder, an autoregressive order, an adaptive solver
    this.fixed = about.default_steps === 1;
    this.stepping.hidden = this.fixed;
    this.steps.min = this.least = about.least_steps ?? 1;
    this.put(steps ?? about.default_steps);
  }

  option(name, [low, high], value = "") {
    const input = h("input", { name, type: "number", min: low, max: high, step: "any", value, placeholder: "default", oninput: () => this.tell() });
    return field(name, input, h("span.range", {}, `${low} … ${high}`));
  }

  measured(card, drawn) {
    const quality = Object.entries(card.quality ?? {});
    this.curve = drawn && card.curve?.length ? new Curve(card, (point) => this.pick(point)) : null;
    this.quality = quality.length ? segmented("Quality", Object.fromEntries(quality.map(([name]) => [name, name])), null, (name) => this.pick(card.quality[name])) : null;
    this.grades = card.quality ?? {};
    return [this.quality, this.curve?.element];
  }

  typed() {
    this.place();
    this.tell();
  }

  slid() {
    this.steps.value = Math.round(this.least * (this.most / this.least) ** (this.slider.value / TICKS));
    this.tell();
  }

  put(steps) {
    this.steps.value = steps;
    this.typed();
  }

  place() {
    this.slider.value = TICKS * (Math.log(Math.max(1, this.steps.value / this.least)) / Math.log(Math.max(2, this.most / this.least)));
    this.slider.setAttribute("aria-valuetext", many(Number(this.steps.value), "step"));
  }

  tell() {
    const { sampler, steps = 1 } = this.value();
    const about = this.known[this.select.value];
    this.cost.textContent = `about ${many(about.nfe_per_step * steps, "network evaluation")} per sample`;
    this.curve?.mark(sampler, steps);
    this.grade(sampler, steps);
    this.changed(this);
  }

  /** Check the radio button of the matching quality, if any. If several match, the checked one stays. */
  grade(sampler, steps) {
    const radios = [...(this.quality?.querySelectorAll("input") ?? [])];
    const fitting = radios.filter(({ value }) => this.grades[value].sampler === sampler && this.grades[value].steps === steps);
    if (fitting.some((radio) => radio.checked)) return;
    for (const radio of radios) radio.checked = radio === fitting[0];
  }
}
