/** The instance to impute, encode or score: an image on the canvas, or a text. */

import * as api from "./api.js";
import { h } from "./dom.js";
import { countOf } from "./format.js";
import { rendererFor } from "./renderers.js";

/** Return the instance input of a tab. runControls shows the progress of sampling an instance. */
export function instanceInput(ctx, runControls, { withMask }) {
  return rendererFor(ctx.card).kind === "image" ? new ImageInput(ctx, runControls, withMask) : new TextInput(ctx, runControls, withMask);
}

/** Return a sample of the model with a random seed. */
async function drawSample({ card }, { signal, onBusy }) {
  const seed = crypto.getRandomValues(new Uint32Array(1))[0];
  const { format } = rendererFor(card);
  const { samples } = await api.postForJson(card.id, "sample", { n: 1, seed, format }, { signal, onBusy });
  return samples[0];
}

/** Return a button that replaces the instance by a sample of the model. */
function sampleButton(ctx, runControls, setInstance) {
  const task = async (tools) => {
    runControls.showStatus("Sampling from the model …");
    await setInstance(await drawSample(ctx, tools));
    return "";
  };
  return h("button.secondary", { type: "button", onclick: () => runControls.start(task) }, "Use a model sample");
}

class ImageInput {
  constructor(ctx, runControls, withMask) {
    Object.assign(this, { editor: ctx.canvasEditor, withMask });
    this.sampleButton = sampleButton(ctx, runControls, (sample) => this.setInstance(sample));
    this.element = h("section.instance-input", { "aria-label": "Image" });
    this.element.addEventListener("uploaderror", (event) => runControls.showStatus("", event.detail));
  }

  /** Move the shared canvas editor with its content into this tab. */
  onOpen() {
    this.element.append(this.editor.element);
    this.editor.showTools(this.withMask, this.sampleButton);
  }

  setInstance(sample) {
    return this.editor.loadSample(sample);
  }

  /** Return the request fields of one instance with missing values. */
  partialInstance() {
    if (!this.editor.missing.some(Boolean)) throw new api.ApiError(0, { message: "The mask is empty. Paint over the pixels to impute." });
    return { image: this.editor.imagePng, mask: this.editor.maskPng };
  }

  /** Return the request fields of complete instances. */
  completeInstances() {
    return { images: [this.editor.imagePng] };
  }
}

class TextInput {
  constructor(ctx, runControls, withMask) {
    this.renderer = rendererFor(ctx.card);
    this.withMask = withMask;
    const { missingMark } = this.renderer;
    this.textarea = h("textarea", {
      id: `text-${withMask}`, rows: 6, spellcheck: false, oninput: () => this.describe(),
      placeholder: withMask ? `Text with ${missingMark} for each missing character` : "Type or paste a text",
    });
    this.description = h("p.cost", { id: `description-${withMask}` });
    this.textarea.setAttribute("aria-describedby", this.description.id);
    const maskButton = h("button.secondary", { type: "button", onclick: () => this.maskSelection() }, "Mask the selection");
    const label = withMask ? `Text (${missingMark} marks a missing character)` : "Text";
    this.element = h(
      "section.instance-input", {}, h("label", { htmlFor: this.textarea.id }, label), this.textarea, this.description,
      h("div.row", {}, sampleButton(ctx, runControls, (sample) => this.setInstance(sample)), withMask ? maskButton : null),
    );
    this.describe();
  }

  onOpen() {}

  setInstance(sample) {
    this.textarea.value = sample;
    this.describe();
  }

  partialInstance() {
    return { text: this.textarea.value, hole: this.renderer.missingMark };
  }

  completeInstances() {
    return { texts: [this.textarea.value] };
  }

  maskSelection() {
    const { selectionStart: start, selectionEnd: end, value } = this.textarea;
    this.textarea.setRangeText(this.renderer.missingMark.repeat([...value.slice(start, end)].length), start, end, "end");
    this.textarea.focus();
    this.describe();
  }

  /** Show the length of the text, the number of missing characters, and unknown characters. */
  describe() {
    const { missingMark, alphabet, length } = this.renderer;
    const characters = [...this.textarea.value];
    const masked = characters.filter((character) => character === missingMark).length;
    const unknown = new Set(characters.filter((character) => character !== missingMark && !alphabet.has(character)));
    const parts = [`${characters.length} of ${countOf(length, "character")}`];
    if (this.withMask) parts.push(`${masked} missing`);
    if (characters.length < length) parts.push(this.withMask ? `${length - characters.length} appended as missing` : `${length - characters.length} too few`);
    if (characters.length > length) parts.push(`${characters.length - length} too many`);
    if (unknown.size) parts.push(`not in the model's alphabet: ${[...unknown].slice(0, 8).join(" ")}`);
    this.description.textContent = parts.join(" · ");
  }
}
