/** Renderers for a model's data: pictures, texts or, otherwise, numbers. */

import { h } from "./dom.js";

const UNDECIDED = "·"; // undecided character in the preview of a text
const TILE = 96; // approximate width of a picture in screen pixels
const FEW = 4; // up to this number, samples are shown at twice the size
const HOLES = "_▢¤␣"; // the first of these outside the model's alphabet marks a missing character

/** Return the renderer for a model's samples. */
export function mediumOf({ data }) {
  if (data.kind === "image" && [1, 3].includes(data.shape[0])) return new Pictures(data.shape);
  return data.alphabet ? new Texts(data) : new Numbers();
}

class Pictures {
  kind = "picture";
  format = "png";
  whole = { format: "grid", suffix: "png", title: "PNG" };

  constructor([, height, width]) {
    Object.assign(this, { height, width });
  }

  /** Return the width of a tile: an integer number of screen pixels per pixel of the model, larger for few samples. */
  tile(n) {
    const scale = Math.max(1, Math.round(TILE / Math.max(this.width, this.height)));
    return this.width * scale * (n <= FEW ? 2 : 1);
  }

  view(title) {
    return h("img", { alt: title, width: this.width, height: this.height, draggable: false });
  }

  put(view, sample) {
    view.src = `data:image/png;base64,${sample}`;
  }

  /** Return a PNG Blob of all samples in rows, at their original size. */
  async file(samples, columns) {
    const rows = Math.ceil(samples.length / columns);
    const canvas = h("canvas", { width: columns * (this.width + 1) - 1, height: rows * (this.height + 1) - 1 });
    const context = canvas.getContext("2d");
    const pictures = await Promise.all(samples.map(picture));
    pictures.forEach((image, i) => context.drawImage(image, (i % columns) * (this.width + 1), Math.floor(i / columns) * (this.height + 1)));
    return new Promise((resolve) => canvas.toBlob(resolve));
  }
}

class Texts {
  kind = "text";
  format = "json";
  whole = { format: "text", suffix: "txt", title: "Text" };

  constructor({ alphabet, shape }) {
    this.hole = [...HOLES].find((mark) => !alphabet.includes(mark)) ?? "_";
    this.alphabet = new Set(alphabet);
    this.length = shape[0];
  }

  view() {
    return h("pre");
  }

  /** Show a text, and highlight the characters that were missing in the given text. */
  put(view, sample, given = "") {
    const letters = [...sample];
    const holes = given ? [...given].concat(Array(Math.max(0, letters.length - [...given].length)).fill(this.hole)) : [];
    const kinds = letters.map((letter, i) => (letter === UNDECIDED && !this.alphabet.has(UNDECIDED) ? "dim" : holes[i] === this.hole ? "new" : ""));
    view.replaceChildren(...runs(letters, kinds).map(([kind, text]) => (kind === "new" ? h("mark", {}, text) : h("span", { className: kind }, text))));
  }

  async file(samples) {
    return new Blob([samples.map((text, i) => `----- ${i}\n${text}\n`).join("")], { type: "text/plain" });
  }
}

class Numbers {
  kind = "numbers";
  format = "json";
  whole = { format: "json", suffix: "json", title: "JSON" };

  view() {
    return h("pre");
  }

  put(view, sample) {
    view.textContent = JSON.stringify(sample);
  }

  async file(samples) {
    return new Blob([JSON.stringify(samples)], { type: "application/json" });
  }
}

/** Load a base64 PNG. */
export async function picture(base64) {
  const image = h("img", { src: `data:image/png;base64,${base64}` });
  await image.decode();
  return image;
}

/** Join adjacent letters of the same kind: [kind, text] pairs. */
function runs(letters, kinds) {
  const joined = [];
  letters.forEach((letter, i) => {
    if (i && kinds[i] === kinds[i - 1]) joined.at(-1)[1] += letter;
    else joined.push([kinds[i], letter]);
  });
  return joined;
}
