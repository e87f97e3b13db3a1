/** Samples in an even grid, what each of them can go on to, and files of them all. */

import * as api from "./api.js";
import { copy, h, save } from "./dom.js";
import { mediumOf } from "./medium.js";
import { provenance } from "./say.js";

export class Gallery {
  /** @param carry (verb, sample) takes one sample to another tab; null where the tab has no other to go to */
  constructor(card, carry) {
    this.card = card;
    this.carry = carry;
    this.medium = mediumOf(card);
    this.grid = h(`div.grid.${this.medium.kind}`, { role: "group", "aria-label": "Samples" });
    if (this.medium.scale) this.grid.style.setProperty("--tile", `${this.medium.width * this.medium.scale}px`);
    this.actions = h("p.actions", { hidden: true });
    this.facts = h("p.facts");
    this.files = h("p.files", { hidden: true });
    this.element = h("section.gallery", { "aria-label": `Samples of ${card.id}` }, this.grid, this.actions, this.facts, this.files);
  }

  /** Make room for n samples, so that nothing moves when they come. */
  expect(n) {
    this.samples = [];
    this.files.hidden = this.actions.hidden = true;
    this.facts.textContent = "";
    this.tiles = Array.from({ length: n }, (_, i) => this.tile(i));
    this.grid.replaceChildren(...this.tiles.map((tile) => tile.element));
  }

  /** Show samples, under way or done. given is a text whose holes they fill. */
  put(samples, given) {
    if (samples.length !== this.tiles?.length) this.expect(samples.length);
    this.samples = samples;
    samples.forEach((sample, i) => {
      this.medium.put(this.tiles[i].view, sample, given);
      this.tiles[i].element.classList.add("there");
    });
  }

  /** Show an answer: samples, where they come from, and how to have them elsewhere. */
  show(answer, { verb, body, given }) {
    this.put(answer.samples, given);
    this.grid.classList.add("done");
    this.facts.textContent = provenance(answer, body.seed);
    this.offer(verb, body);
  }

  /** The number of columns that the grid has now. */
  get columns() {
    return getComputedStyle(this.grid).gridTemplateColumns.split(" ").length;
  }

  tile(i) {
    const title = `Sample ${i + 1}`;
    const view = this.medium.view("");
    const choose = { type: "button", "aria-label": title, "aria-pressed": "false", onclick: () => this.choose(i) };
    if (this.medium.kind === "picture") return { view, element: h("button.tile", choose, view) };
    return { view, element: h("article.tile", {}, h("button.link", choose, String(i + 1)), view) };
  }

  choose(i) {
    if (!this.files.hidden) {
      this.tiles.forEach((tile, j) => (tile.element.closest("button") ?? tile.element.firstChild).setAttribute("aria-pressed", String(i === j)));
      const verbs = Object.entries({ impute: "Fill", encode: "Encode", score: "Score" }).filter(([verb]) => this.card.verbs.includes(verb));
      const go = this.medium.kind === "numbers" ? [] : verbs.map(([verb, title]) => h("button.link", { type: "button", onclick: () => this.carry(verb, this.samples[i]) }, title));
      const own = this.medium.kind === "text" ? "txt" : this.medium.whole.suffix;
      const keep = h("button.link", { type: "button", onclick: () => this.save([this.samples[i]], 1, `${this.name}-${i + 1}.${own}`) }, "Save");
      this.actions.replaceChildren(`Sample ${i + 1}: `, ...go, keep);
      this.actions.hidden = false;
    }
  }

  offer(verb, body) {
    this.name = `${this.card.id.replaceAll("/", "-")}-${body.seed}`;
    const { title, suffix, format } = this.medium.whole;
    const button = (label, onclick) => h("button.link", { type: "button", onclick }, label);
    const npz = button("npz", async () => {
      // a second computation: the numbers themselves never came to the page
      await this.told(npz, "computing …", async () => save(await api.file(this.card.id, verb, { ...body, format: "npz" }), `${this.name}.npz`));
    });
    const command = api.curl(this.card.id, verb, { ...body, format }, format === "text" ? null : `${this.name}.${suffix}`);
    const curl = button("Copy as curl", () => this.told(curl, "copied", () => copy(command)));
    const link = button("Copy link", () => this.told(link, "copied", () => copy(location.href)));
    this.files.replaceChildren(button(title, () => this.save(this.samples, this.columns, `${this.name}.${suffix}`)), npz, curl, link);
    this.files.hidden = false;
  }

  async save(samples, columns, name) {
    save(await this.medium.file(samples, Math.min(columns, samples.length)), name);
  }

  /** Say on a button what it does or did, for a while. */
  async told(button, word, work) {
    const label = button.textContent;
    button.textContent = word;
    try {
      await work();
      await new Promise((resolve) => setTimeout(resolve, 1200));
    } catch (error) {
      this.facts.textContent = error.message;
    } finally {
      button.textContent = label;
    }
  }
}
