/** Compare: two models, or one with two samplers, from the same seed side by side. */

import { Bar } from "../bar.js";
import { Chooser } from "../chooser.js";
import { counted } from "../counted.js";
import { field, h, reveal } from "../dom.js";
import { Gallery } from "../gallery.js";
import * as link from "../link.js";
import { sampled } from "../sampled.js";

export const compare = { id: "compare", title: "Compare", formula: "p(x) ∥ q(x)", verb: "sample", shared: true, build };

function build(ctx) {
  const able = ctx.cards.filter((card) => card.ready && card.verbs.includes("sample"));
  const other = able.find((card) => card.id === link.read().with) ?? able.find((card) => card !== ctx.card && card.data.name === ctx.card.data.name) ?? ctx.card;
  const n = counted("Samples of each", "n", ctx.card);
  const sides = [new Side("p", able, ctx.card, ctx), new Side("q", able, other, ctx)];
  const bar = new Bar("Draw both", async (tools) => {
    const far = sides.map(() => [0, 0]);
    reveal(sides[0].place);
    const runs = sides.map((side, i) =>
      side.run(n.value, {
        ...tools,
        progress: (done, total) => {
          far[i] = [done, total];
          tools.progress(far[0][0] + far[1][0], far[0][1] + far[1][1]);
        },
      }),
    );
    const failed = (await Promise.allSettled(runs)).find((run) => run.status === "rejected");
    if (failed) throw failed.reason;
    return "Done.";
  });
  const form = h("form.both", { onsubmit: ctx.submits(bar) }, ...sides.map((side) => side.controls), h("div.common", {}, n.element, bar.element));
  return {
    element: h("div.panel.comparing", {}, form, ...sides.map((side) => side.place)),
    run: () => form.requestSubmit(),
    close: () => bar.stop(),
  };
}

/** One of the two: a model, how to draw from it, and what came of it. */
class Side {
  constructor(letter, able, card, ctx) {
    Object.assign(this, { letter, able, ctx });
    this.select = h("select", { onchange: () => this.choose(this.select.value) }, ...able.map(({ id }) => h("option", {}, id)));
    this.chosen = h("div");
    this.controls = h("fieldset", {}, h("legend", {}, h("i", {}, letter)), field("Model", this.select), this.chosen);
    this.place = h("div.side");
    this.choose(card.id, link.read()[`sampler_${letter}`]);
  }

  choose(id, sampler) {
    const card = this.able.find((other) => other.id === id);
    this.select.value = id;
    this.id = id;
    const steps = link.whole(`steps_${this.letter}`, 1, Infinity, undefined);
    this.chooser = new Chooser(card, "sampler", sampler ? { sampler, steps } : {}, (chosen) => this.tell(chosen));
    this.gallery = new Gallery(card, (verb, sample) => this.ctx.carry(verb, sample, id));
    this.chosen.replaceChildren(this.chooser.element);
    this.place.replaceChildren(h("h2", {}, h("i", {}, this.letter), ` ${id}`), this.gallery.element);
  }

  tell(chosen) {
    const { sampler, steps = null } = chosen.value();
    link.write({ [`sampler_${this.letter}`]: sampler, [`steps_${this.letter}`]: steps, ...(this.letter === "q" ? { with: this.id } : {}) });
  }

  run(n, tools) {
    return sampled(this.gallery, "sample", { n, seed: this.ctx.seed(), ...this.chooser.value() }, tools);
  }
}
