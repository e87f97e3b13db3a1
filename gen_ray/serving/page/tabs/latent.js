/** The Latent tab: decodes points of the latent space and encodes instances. */

import * as api from "../api.js";
import { h } from "../dom.js";
import { instanceInput } from "../instance_input.js";
import { LatentMap } from "../latent_map.js";
import { rendererFor } from "../renderers.js";
import { RunControls } from "../run_controls.js";
import { standardNormals } from "../standard_normals.js";

const SLIDER_LIMIT = 3; // initial range of the sliders in standard deviations of the prior
const VISIBLE_SLIDERS = 20; // the others are in a closed section

export const latentTab = { id: "latent", title: "Latent", formula: "z ↦ x", verb: "decode", build };

function build(ctx) {
  const explorer = new LatentExplorer(ctx);
  return {
    element: explorer.element,
    onOpen: () => explorer.onOpen(),
    setInstance: (sample) => explorer.setInstance(sample),
    run: () => explorer.samplePrior(),
    stop: () => explorer.runControls.stop(),
  };
}

class LatentExplorer {
  constructor(ctx) {
    this.ctx = ctx;
    this.renderer = rendererFor(ctx.card);
    this.z = Array(ctx.card.latent_dim).fill(0);
    this.sliders = this.z.map((_, i) => this.createSlider(i));
    this.runControls = new RunControls("Encode", (tools) => this.encode(tools));
    this.input = instanceInput(ctx, this.runControls, { withMask: false });
    this.view = this.renderer.createView("Decoded latent point");
    this.map = this.z.length === 2 ? new LatentMap(ctx.card, (z) => this.setZ(z)) : null;
    this.element = this.createPanel();
    this.encoder.hidden = !ctx.card.verbs.includes("encode");
  }

  createPanel() {
    const button = (label, onclick) => h("button.secondary", { type: "button", onclick }, label);
    const visible = this.sliders.slice(0, VISIBLE_SLIDERS).map((slider) => slider.element);
    const others = this.sliders.slice(VISIBLE_SLIDERS).map((slider) => slider.element);
    const details = others.length ? h("details", {}, h("summary", {}, `${others.length} more dimensions`), ...others) : null;
    const buttons = h("div.row", {}, button("z = 0", () => this.setZ(this.z.map(() => 0))), button("z ∼ N(0, I)", () => this.samplePrior()));
    this.encoder = h("form.encoder", { onsubmit: this.ctx.submitHandler(this.runControls) }, this.input.element, this.runControls.element);
    const decoded = h("figure.decoded", {}, this.view, h("figcaption", {}, "x: decoded from z"));
    const views = h("div.latent-views", {}, this.map?.element ?? null, decoded);
    return h("div.panel", {}, h("div.controls.sliders", {}, buttons, ...visible, details), views, this.encoder);
  }

  createSlider(i) {
    const text = h("span.value"); // not an output element, which screen readers would read aloud at every move
    const input = h("input", { type: "range", min: -SLIDER_LIMIT, max: SLIDER_LIMIT, step: 0.01, value: 0, "aria-label": `z ${i + 1}` });
    input.oninput = () => this.setZ(this.z.map((value, j) => (i === j ? Number(input.value) : value)));
    return { input, text, element: h("label.z", {}, h("i", {}, "z", h("sub", {}, String(i + 1))), input, text) };
  }

  onOpen() {
    this.input.onOpen();
    this.map?.drawImages();
    this.setZ(this.z);
  }

  async setInstance(sample) {
    await this.input.setInstance(sample);
    await this.runControls.start();
  }

  /** Move to a point of the prior drawn with the page's seed. */
  samplePrior() {
    this.setZ(standardNormals(this.ctx.seed(), this.z.length));
  }

  setZ(z) {
    this.z = z;
    this.sliders.forEach(({ input, text }, i) => {
      // the code of an instance may lie outside the range of the sliders
      const limit = Math.max(SLIDER_LIMIT, Math.ceil(Math.abs(z[i])));
      Object.assign(input, { min: -limit, max: limit, value: z[i] });
      text.textContent = z[i].toFixed(2).replace("-", "−");
    });
    this.map?.showMarker(z);
    this.decode();
  }

  /** Decode the current z. One request runs at a time; then the latest z is sent, and those in between are skipped. */
  async decode() {
    this.outdated = true;
    if (this.decoding) return;
    this.decoding = true;
    try {
      while (this.outdated) {
        this.outdated = false;
        const body = { z: [this.z], format: this.renderer.format };
        const { samples } = await api.postForJson(this.ctx.card.id, "decode", body, { onBusy: (seconds) => this.runControls.showBusy(seconds) });
        this.renderer.show(this.view, samples[0]);
      }
    } catch (error) {
      this.runControls.showError(error);
    } finally {
      this.decoding = false;
    }
  }

  async encode({ signal, onBusy }) {
    const { mu } = await api.postForJson(this.ctx.card.id, "encode", { ...this.input.completeInstances(), seed: this.ctx.seed() }, { signal, onBusy });
    this.setZ(mu[0]);
    return "z is set to the mean of q(z | x).";
  }
}
