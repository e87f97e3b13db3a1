/** Renderers of a model's data: images, texts, rows of a table or, otherwise, numbers. */

import { h } from "./dom.js";
import { shownValue } from "./format.js";

const UNDECIDED = "·"; // a character that is not decided yet in the preview of a text
const TILE_WIDTH = 96; // approximate width of an image in screen pixels
const FEW_SAMPLES = 4; // up to this number, images are shown at twice the size
const MISSING_MARKS = "_▢¤␣"; // the first of these outside the model's alphabet marks a missing character

/** Return the renderer for a model's samples. */
export function rendererFor({ data }) {
  if (data.kind === "image" && [1, 3].includes(data.shape[0])) return new ImageRenderer(data.shape);
  if (data.kind === "table") return new RowRenderer(data);
  return data.alphabet ? new TextRenderer(data) : new NumberRenderer();
}

class ImageRenderer {
  kind = "image";
  format = "png";
  download = { format: "grid", suffix: "png", title: "PNG" };

  constructor([, height, width]) {
    Object.assign(this, { height, width });
  }

  /** Return the width of a tile: an integer number of screen pixels per image pixel, larger for few samples. */
  tileWidth(n) {
    const scale = Math.max(1, Math.round(TILE_WIDTH / Math.max(this.width, this.height)));
    return this.width * scale * (n <= FEW_SAMPLES ? 2 : 1);
  }

  createView(title) {
    return h("img", { alt: title, width: this.width, height: this.height, draggable: false });
  }

  show(view, sample) {
    view.src = `data:image/png;base64,${sample}`;
  }

  /** Return a PNG Blob of all samples in rows, at their original size. */
  async toBlob(samples, columns) {
    const rows = Math.ceil(samples.length / columns);
    const canvas = h("canvas", { width: columns * (this.width + 1) - 1, height: rows * (this.height + 1) - 1 });
    const context = canvas.getContext("2d");
    const images = await Promise.all(samples.map(loadImage));
    images.forEach((image, i) => context.drawImage(image, (i % columns) * (this.width + 1), Math.floor(i / columns) * (this.height + 1)));
    return new Promise((resolve) => canvas.toBlob(resolve));
  }
}

class TextRenderer {
  kind = "text";
  format = "json";
  download = { format: "text", suffix: "txt", title: "text" };

  constructor({ alphabet, shape }) {
    this.missingMark = [...MISSING_MARKS].find((mark) => !alphabet.includes(mark)) ?? "_";
    this.alphabet = new Set(alphabet);
    this.length = shape[0];
  }

  createView() {
    return h("pre");
  }

  /** Show a text, and highlight the characters that were missing in the given text. */
  show(view, sample, given = "") {
    const characters = [...sample];
    const padding = Array(Math.max(0, characters.length - [...given].length)).fill(this.missingMark);
    const input = given ? [...given, ...padding] : [];
    const isUndecided = (character) => character === UNDECIDED && !this.alphabet.has(UNDECIDED);
    const kinds = characters.map((character, i) => (isUndecided(character) ? "undecided" : input[i] === this.missingMark ? "imputed" : ""));
    view.replaceChildren(...groupRuns(characters, kinds).map(([kind, text]) => (kind === "imputed" ? h("mark", {}, text) : h("span", { className: kind }, text))));
  }

  async toBlob(samples) {
    return new Blob([samples.map((text, i) => `----- ${i}\n${text}\n`).join("")], { type: "text/plain" });
  }
}

class RowRenderer {
  kind = "rows";
  format = "json";
  download = { format: "csv", suffix: "csv", title: "CSV" };

  constructor({ columns }) {
    this.columns = columns;
  }

  createView() {
    return h("dl");
  }

  /** Show the values of a row by column; values that are not decided yet are null. */
  show(view, row) {
    view.replaceChildren(...this.columns.flatMap((column) => [h("dt", {}, column.name), h("dd", { className: row[column.name] === null ? "undecided" : "" }, shownValue(row[column.name], column))]));
  }

  async toBlob(samples) {
    const lines = samples.map((row) => this.columns.map(({ name }) => csvCell(row[name])).join(","));
    return new Blob([[this.columns.map(({ name }) => csvCell(name)).join(","), ...lines, ""].join("\n")], { type: "text/csv" });
  }
}

class NumberRenderer {
  kind = "numbers";
  format = "json";
  download = { format: "json", suffix: "json", title: "JSON" };

  createView() {
    return h("pre");
  }

  show(view, sample) {
    view.textContent = JSON.stringify(sample);
  }

  async toBlob(samples) {
    return new Blob([JSON.stringify(samples)], { type: "application/json" });
  }
}

/** Load a base64 PNG. */
export async function loadImage(base64) {
  const image = h("img", { src: `data:image/png;base64,${base64}` });
  await image.decode();
  return image;
}

/** Return a value as a cell of a CSV file. */
function csvCell(value) {
  const text = String(value ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Join adjacent characters of the same kind into [kind, text] pairs. */
function groupRuns(characters, kinds) {
  const runs = [];
  characters.forEach((character, i) => {
    if (i && kinds[i] === kinds[i - 1]) runs.at(-1)[1] += character;
    else runs.push([kinds[i], character]);
  });
  return runs;
}
