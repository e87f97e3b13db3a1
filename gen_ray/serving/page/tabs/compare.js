/** The Compare tab: samples of two models, or of two samplers, side by side from one seed. */

import { Bar } from "../bar.js";
import { Chooser } from "../chooser.js";
import { counted } from "../counted.js";
import { field, h, reveal } from "../dom.js";
import { Gallery } from "../gallery.js";
import * as link from "../link.js";
import { sampled } from "../sampled.js";

export const compare = { id: "compare", title: "Compare", formula: "p(x), q(x)", verb: "sample", shared: true, build };

function build(ctx) {
  const n = counted("Samples of each", "n", ctx.card);
  const p = new Side(ctx, "p", ["sampler", "steps"]);
  const q = new Side(ctx, "q", ["with_sampler", "with_steps"]);
  const able = ctx.cards.filter((card) => card.ready && card.verbs.includes("sample"));
  const select = h("select", { onchange: () => other(select.value) }, ...able.map(({ id }) => h("option", {}, id)));
  const other = (id) => {
    select.value = id;
    link.write({ with: id });
    q.choose(able.find((card) => card.id === id));
  };
  p.choose(ctx.card);
  other(rival(ctx.card, able).id);
  const bar = new Bar("Draw both", (tools) => {
    reveal(p.place);
    return both([p, q], n.value, tools);
  });
  const second = h("div.model", {}, field("Compared with", select));
  const first = h("div.model", {}, h("p.summary", {}, `${ctx.card.id}, the model of this page`));
  const form = h("form.both", { onsubmit: ctx.submits(bar) }, p.controls(first), q.controls(second), h("div.common", {}, n.element, bar.element));
  return { element: h("div.panel.comparing", {}, form, p.place, q.place), run: () => form.requestSubmit(), close: () => bar.stop() };
}

/** Return the model in the link, otherwise another model of the same data, otherwise the same model. */
function rival(card, able) {
  return able.find(({ id }) => id === link.read().with) ?? able.find((one) => one !== card && one.data.name === card.data.name) ?? card;
}

/** Draw from both concurrently; one bar shows their total progress. */
async function both(sides, n, tools) {
  const far = sides.map(() => [0, 0]);
  const runs = sides.map((side, i) => {
    const progress = (...own) => {
      far[i] = own;
      tools.progress(far[0][0] + far[1][0], far[0][1] + far[1][1]);
    };
    return side.run(n, { ...tools, progress });
  });
  const failed = (await Promise.allSettled(runs)).find(({ status }) => status === "rejected");
  if (failed) throw failed.reason;
  return "Done.";
}

/** One side of the comparison: a model, its sampling controls and its gallery. */
class Side {
  /** @param the keys in the link for the sampler and its steps */
  constructor(ctx, letter, [sampler, steps]) {
    Object.assign(this, { ctx, letter, words: { sampler, steps } });
    this.chosen = h("div");
    this.place = h("div.side");
  }

  controls(model) {
    return h("fieldset", {}, h("legend", {}, h("i", {}, this.letter)), model, this.chosen);
  }

  choose(card) {
    const { sampler, steps } = this.words;
    const first = { sampler: link.read()[sampler], steps: link.whole(steps, 1, Infinity, undefined) };
    const tell = (chooser) => link.write({ [steps]: null, ...renamed(chooser.value(), this.words) });
    this.chooser = new Chooser(card, "sampler", first, tell, false);
    this.gallery = new Gallery(card, (verb, sample) => this.ctx.carry(verb, sample, card.id));
    this.chosen.replaceChildren(this.chooser.element);
    this.place.replaceChildren(h("h2", {}, h("i", {}, this.letter), ` ${card.id}`), this.gallery.element);
  }

  run(n, tools) {
    return sampled(this.gallery, "sample", { n, seed: this.ctx.seed(), ...this.chooser.value() }, tools);
  }
}

function renamed(values, words) {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [words[name], value]));
}
