/** The Latent tab: decodes points of the latent space and encodes instances. */

import * as api from "../api.js";
import { Bar } from "../bar.js";
import { h } from "../dom.js";
import { mediumOf } from "../medium.js";
import { Pad } from "../pad.js";
import { normals } from "../normals.js";
import { subjectOf } from "../subject.js";

const REACH = 3; // initial range of the sliders in standard deviations of the prior
const SHOWN = 20; // sliders that are shown initially

export const latent = { id: "latent", title: "Latent", formula: "z ↦ x", verb: "decode", build };

function build(ctx) {
  const walk = new Walk(ctx);
  return {
    element: walk.element,
    enter: () => walk.enter(),
    take: (sample) => walk.take(sample),
    run: () => walk.roll(),
    close: () => walk.bar.stop(),
  };
}

class Walk {
  constructor(ctx) {
    this.ctx = ctx;
    this.medium = mediumOf(ctx.card);
    this.z = Array(ctx.card.latent_dim).fill(0);
    this.sliders = this.z.map((_, i) => this.slider(i));
    this.bar = new Bar("Encode", (tools) => this.encode(tools));
    this.subject = subjectOf(ctx, this.bar, { holes: false });
    this.view = this.medium.view("Decoded latent point");
    this.pad = this.z.length === 2 ? new Pad(ctx.card, (z) => this.move(z)) : null;
    this.element = this.arranged();
    this.encoder.hidden = !ctx.card.verbs.includes("encode");
  }

  arranged() {
    const button = (label, onclick) => h("button.quiet", { type: "button", onclick }, label);
    const few = this.sliders.slice(0, SHOWN).map((slider) => slider.element);
    const rest = this.sliders.slice(SHOWN).map((slider) => slider.element);
    const more = rest.length ? h("details", {}, h("summary", {}, `${rest.length} more`), ...rest) : null;
    const moves = h("div.row", {}, button("z = 0", () => this.move(this.z.map(() => 0))), button("z ∼ N(0, I)", () => this.roll()));
    this.encoder = h("form.encoder", { onsubmit: this.ctx.submits(this.bar) }, this.subject.element, this.bar.element);
    const decoded = h("figure.decoded", {}, this.view, h("figcaption", {}, "x, decoded"));
    const stage = h("div.stage", {}, this.pad?.element ?? null, decoded);
    return h("div.panel", {}, h("div.controls.sliders", {}, moves, ...few, more), stage, this.encoder);
  }

  slider(i) {
    const output = h("span.value"); // not an output element, which screen readers would read aloud at every move
    const input = h("input", { type: "range", min: -REACH, max: REACH, step: 0.01, value: 0, "aria-label": `z ${i + 1}` });
    input.oninput = () => this.move(this.z.map((value, j) => (i === j ? Number(input.value) : value)));
    return { input, output, element: h("label.z", {}, h("i", {}, "z", h("sub", {}, String(i + 1))), input, output) };
  }

  enter() {
    this.subject.enter();
    this.pad?.survey();
    this.move(this.z);
  }

  async take(sample) {
    await this.subject.take(sample);
    await this.bar.start();
  }

  /** Move to a point of the prior drawn with the page's seed. */
  roll() {
    this.move(normals(this.ctx.seed(), this.z.length));
  }

  move(z) {
    this.z = z;
    this.sliders.forEach(({ input, output }, i) => {
      // an encoded picture may lie outside the range of the sliders
      const reach = Math.max(REACH, Math.ceil(Math.abs(z[i])));
      Object.assign(input, { min: -reach, max: reach, value: z[i] });
      output.textContent = z[i].toFixed(2).replace("-", "−");
    });
    this.pad?.point(z);
    this.follow();
  }

  /** Decode the current z. One request runs at a time; after it the latest z is sent, and those between are skipped. */
  async follow() {
    this.stale = true;
    if (this.following) return;
    this.following = true;
    try {
      while (this.stale) {
        this.stale = false;
        const { samples } = await api.post(this.ctx.card.id, "decode", { z: [this.z], format: this.medium.format }, { busy: (seconds) => this.bar.tell(`The server is busy; trying again in ${seconds} s.`) });
        this.medium.put(this.view, samples[0]);
      }
    } catch (error) {
      this.bar.fail(error);
    } finally {
      this.following = false;
    }
  }

  async encode({ signal, busy }) {
    const { mu } = await api.post(this.ctx.card.id, "encode", { ...this.subject.whole(), seed: this.ctx.seed() }, { signal, busy });
    this.move(mu[0]);
    return "z is the mean of q(z | x).";
  }
}
