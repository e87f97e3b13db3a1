/** The gallery: samples in a grid, actions for a selected sample, and downloads. */

import * as api from "./api.js";
import { copy, h, save } from "./dom.js";
import { mediumOf } from "./medium.js";
import { provenance } from "./say.js";

const GAP = 4; // pixels between tiles
const NARROW = 480;

export class Gallery {
  /** @param carry (verb, sample) opens another tab with a sample */
  constructor(card, carry) {
    this.card = card;
    this.carry = carry;
    this.medium = mediumOf(card);
    this.grid = h(`div.grid.${this.medium.kind}`);
    this.actions = h("p.actions", { hidden: true });
    this.facts = h("p.facts");
    this.files = h("p.files", { hidden: true });
    this.element = h("section.gallery", { "aria-label": `Samples of ${card.id}` }, this.grid, this.actions, this.facts, this.files);
    if (this.medium.kind === "picture") new ResizeObserver(() => this.arrange()).observe(this.grid);
  }

  /** Create n empty tiles, so that the layout does not change when samples arrive. */
  expect(n) {
    this.samples = [];
    this.files.hidden = this.actions.hidden = true;
    this.facts.textContent = "";
    this.tiles = Array.from({ length: n }, (_, i) => this.tile(i));
    this.grid.replaceChildren(...this.tiles.map((tile) => tile.element));
    if (this.medium.kind === "picture") this.arrange();
  }

  /** Choose the number of columns. */
  arrange() {
    const room = this.grid.clientWidth + GAP;
    const n = this.tiles?.length ?? 0;
    if (room === GAP || !n) return;
    let tile = this.medium.tile(n);
    // phones have finer physical pixels, so tiles may have a fractional width
    if (room < NARROW) tile = room / Math.ceil(room / (tile + GAP)) - GAP;
    this.columns = even(n, Math.max(1, Math.floor((room + 0.5) / (tile + GAP))));
    this.grid.style.setProperty("--columns", this.columns);
    this.grid.style.setProperty("--tile", `${tile}px`);
  }

  /** Show unfinished or finished samples. given is the text with missing characters that they complete. */
  put(samples, given) {
    if (samples.length !== this.tiles?.length) this.expect(samples.length);
    this.samples = samples;
    samples.forEach((sample, i) => {
      this.medium.put(this.tiles[i].view, sample, given);
      this.tiles[i].element.classList.add("there");
      this.tiles[i].button.disabled = false;
    });
  }

  /** Show a result: samples, provenance and downloads. */
  show(answer, { verb, body, given }) {
    this.put(answer.samples, given);
    this.facts.textContent = provenance(answer, body.seed);
    this.offer(verb, body);
  }

  tile(i) {
    const view = this.medium.view("");
    const own = { type: "button", disabled: true, "aria-label": `Sample ${i + 1}`, "aria-pressed": "false", onclick: () => this.choose(i) };
    if (this.medium.kind === "picture") {
      const button = h("button.tile", own, view);
      return { view, button, element: button };
    }
    const button = h("button.link", own, String(i + 1));
    return { view, button, element: h("article.tile", {}, button, view) };
  }

  choose(i) {
    if (this.files.hidden) return; // unfinished
    this.tiles.forEach(({ button }, j) => button.setAttribute("aria-pressed", String(i === j)));
    const verbs = Object.entries({ impute: "Fill", encode: "Encode", score: "Score" }).filter(([verb]) => this.card.verbs.includes(verb));
    const go = this.medium.kind === "numbers" ? [] : verbs.map(([verb, title]) => h("button.link", { type: "button", onclick: () => this.carry(verb, this.samples[i]) }, title));
    const keep = h("button.link", { type: "button", onclick: () => this.save([this.samples[i]], 1, `${this.name}-${i + 1}.${this.medium.whole.suffix}`) }, "Save");
    this.actions.replaceChildren(`Sample ${i + 1}: `, ...go, keep);
    this.actions.hidden = false;
  }

  offer(verb, body) {
    this.name = `${this.card.id.replaceAll("/", "-")}-${body.seed}`;
    const { title, suffix, format } = this.medium.whole;
    const button = (label, onclick) => h("button.link", { type: "button", onclick }, label);
    const npz = button("npz", async () => {
      // the samples are computed again, because the page has only PNGs
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

  /** Show a word on a button while it works and shortly afterwards. */
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

/** Return the largest number of columns up to most that fills all rows, or most if that would leave half the width unused. */
function even(n, most) {
  for (let columns = Math.min(n, most); columns > most / 2; columns -= 1) if (n % columns === 0) return columns;
  return most;
}
