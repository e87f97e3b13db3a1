/** Samples in a grid, actions for a selected sample, and downloads. */

import * as api from "./api.js";
import { copyToClipboard, download, h } from "./dom.js";
import { provenance } from "./format.js";
import { rendererFor } from "./renderers.js";

const GAP = 4; // pixels between tiles
const NARROW = 480; // pixels
const MESSAGE_MILLISECONDS = 1200; // duration of a message on a button
const ACTION_TITLES = { impute: "Impute", encode: "Encode", score: "Score" };
const VERBS_OF_KIND = { rows: ["impute"], numbers: [] }; // one tab edits, imputes and scores a row

export class SampleGallery {
  /** @param openInTab (verb, sample) opens the verb's tab with a sample */
  constructor(card, openInTab) {
    this.card = card;
    this.openInTab = openInTab;
    this.renderer = rendererFor(card);
    this.grid = h(`div.grid.${this.renderer.kind}`);
    this.actions = h("p.actions", { hidden: true });
    this.provenance = h("p.provenance");
    this.downloads = h("p.downloads", { hidden: true });
    this.element = h("section.gallery", { "aria-label": `Samples of ${card.id}` }, this.grid, this.actions, this.provenance, this.downloads);
    if (this.renderer.kind === "image") new ResizeObserver(() => this.arrangeTiles()).observe(this.grid);
  }

  /** Create n empty tiles, so that the layout does not change when samples arrive. */
  reserveTiles(n) {
    this.samples = [];
    this.downloads.hidden = this.actions.hidden = true;
    this.provenance.textContent = "";
    this.tiles = Array.from({ length: n }, (_, i) => this.createTile(i));
    this.grid.replaceChildren(...this.tiles.map((tile) => tile.element));
    if (this.renderer.kind === "image") this.arrangeTiles();
  }

  /** Set the width of the tiles and the number of columns. */
  arrangeTiles() {
    const available = this.grid.clientWidth + GAP;
    const n = this.tiles?.length ?? 0;
    if (available === GAP || !n) return;
    let width = this.renderer.tileWidth(n);
    // phones have finer physical pixels, so tiles may have a fractional width
    if (available < NARROW) width = available / Math.ceil(available / (width + GAP)) - GAP;
    this.columns = columnCount(n, Math.max(1, Math.floor((available + 0.5) / (width + GAP))));
    this.grid.style.setProperty("--columns", this.columns);
    this.grid.style.setProperty("--tile-width", `${width}px`);
  }

  /** Show unfinished or finished samples. given is the text whose missing characters were imputed. */
  showSamples(samples, given) {
    if (samples.length !== this.tiles?.length) this.reserveTiles(samples.length);
    this.samples = samples;
    samples.forEach((sample, i) => {
      this.renderer.show(this.tiles[i].view, sample, given);
      this.tiles[i].element.classList.add("has-sample");
      this.tiles[i].button.disabled = false;
    });
  }

  /** Show a result: samples, provenance and downloads. */
  showResult(result, { verb, body, given }) {
    this.showSamples(result.samples, given);
    this.provenance.textContent = provenance(result, body.seed);
    this.showDownloads(verb, body);
  }

  createTile(i) {
    const view = this.renderer.createView("");
    const properties = { type: "button", disabled: true, "aria-label": `Sample ${i + 1}`, "aria-pressed": "false", onclick: () => this.selectTile(i) };
    if (this.renderer.kind === "image") {
      const button = h("button.tile", properties, view);
      return { view, button, element: button };
    }
    const button = h("button.link", properties, String(i + 1));
    return { view, button, element: h("article.tile", {}, button, view) };
  }

  selectTile(i) {
    if (this.downloads.hidden) return; // the samples are unfinished
    this.tiles.forEach(({ button }, j) => button.setAttribute("aria-pressed", String(i === j)));
    const verbs = (VERBS_OF_KIND[this.renderer.kind] ?? Object.keys(ACTION_TITLES)).filter((verb) => this.card.verbs.includes(verb));
    const { suffix } = this.renderer.download;
    this.actions.replaceChildren(
      `Sample ${i + 1}: `, ...verbs.map((verb) => linkButton(ACTION_TITLES[verb], () => this.openInTab(verb, this.samples[i]))),
      linkButton("Save", () => this.saveFile([this.samples[i]], 1, `${this.fileStem}-${i + 1}.${suffix}`)),
    );
    this.actions.hidden = false;
  }

  showDownloads(verb, body) {
    this.fileStem = `${this.card.id.replaceAll("/", "-")}-${body.seed}`;
    const { title, suffix, format } = this.renderer.download;
    const all = linkButton(`Save all as ${title}`, () => this.saveFile(this.samples, this.columns, `${this.fileStem}.${suffix}`));
    const npz = linkButton("Save all as npz", () => this.withMessage(npz, "Computing …", () => this.saveNpz(verb, body)));
    const command = api.curlCommand(this.card.id, verb, { ...body, format }, format === "text" ? null : `${this.fileStem}.${suffix}`);
    const curl = linkButton("Copy as curl", () => this.withMessage(curl, "Copied", () => copyToClipboard(command)));
    const link = linkButton("Copy link", () => this.withMessage(link, "Copied", () => copyToClipboard(location.href)));
    this.downloads.replaceChildren(all, npz, curl, link);
    this.downloads.hidden = false;
  }

  async saveFile(samples, columns, name) {
    download(await this.renderer.toBlob(samples, Math.min(columns, samples.length)), name);
  }

  /** Save the samples as arrays. They are computed again, because the page has only PNGs. */
  async saveNpz(verb, body) {
    download(await api.postForBlob(this.card.id, verb, { ...body, format: "npz" }), `${this.fileStem}.npz`);
  }

  /** Show a message on a button during an operation and shortly afterwards. */
  async withMessage(button, message, operation) {
    const label = button.textContent;
    button.textContent = message;
    try {
      await operation();
      await new Promise((resolve) => setTimeout(resolve, MESSAGE_MILLISECONDS));
    } catch (error) {
      this.provenance.textContent = error.message;
    } finally {
      button.textContent = label;
    }
  }
}

function linkButton(label, onclick) {
  return h("button.link", { type: "button", onclick }, label);
}

/** Return the largest number of columns that fills all rows, or max if that would leave half of the width unused. */
function columnCount(n, max) {
  for (let columns = Math.min(n, max); columns > max / 2; columns -= 1) if (n % columns === 0) return columns;
  return max;
}
