/** The instance to complete, encode or score: a picture on the canvas, or a text. */

import * as api from "./api.js";
import { h } from "./dom.js";
import { mediumOf } from "./medium.js";
import { many } from "./say.js";

/** Return the instance input of a tab. bar shows the progress while the model draws one; holes enables masks. */
export function subjectOf(ctx, bar, { holes }) {
  return mediumOf(ctx.card).kind === "picture" ? new Picture(ctx, bar, holes) : new Text(ctx, bar, holes);
}

/** Draw a sample with a random seed. */
async function drawn({ card }, { signal, busy }) {
  const seed = crypto.getRandomValues(new Uint32Array(1))[0];
  const { format } = mediumOf(card);
  const { samples } = await api.post(card.id, "sample", { n: 1, seed, format }, { signal, busy });
  return samples[0];
}

/** Return a button that fills the input with a sample of the model. */
function drawer(ctx, bar, take) {
  const work = async (tools) => {
    bar.tell("The model draws one …");
    await take(await drawn(ctx, tools));
    return "";
  };
  return h("button.quiet", { type: "button", onclick: () => bar.start(work) }, "Let the model draw one");
}

class Picture {
  constructor(ctx, bar, holes) {
    Object.assign(this, { easel: ctx.easel, holes });
    this.drawer = drawer(ctx, bar, (sample) => this.take(sample));
    this.element = h("section.subject", { "aria-label": "The picture" });
    this.element.addEventListener("trouble", (event) => bar.tell("", event.detail));
  }

  /** Move the shared canvas into this tab, with its content. */
  enter() {
    this.element.append(this.easel.element);
    this.easel.equip(this.holes, this.drawer);
  }

  take(sample) {
    return this.easel.show(sample);
  }

  /** Return the fields of a request for one instance with missing parts. */
  holed() {
    if (!this.easel.holes.some(Boolean)) throw new api.Refusal(0, { message: "Nothing is masked yet: paint over the part to fill in." });
    return { image: this.easel.png, mask: this.easel.mask };
  }

  /** Return the fields of a request for complete instances. */
  whole() {
    return { images: [this.easel.png] };
  }
}

class Text {
  constructor(ctx, bar, holes) {
    this.medium = mediumOf(ctx.card);
    this.holes = holes;
    const { hole } = this.medium;
    this.area = h("textarea", {
      id: `text-${holes}`, rows: 6, spellcheck: false, oninput: () => this.count(),
      placeholder: holes ? `Text with ${hole} for each character to fill in` : "Type or paste a text",
    });
    this.counter = h("p.cost", { id: `count-${holes}` });
    this.area.setAttribute("aria-describedby", this.counter.id);
    const cut = h("button.quiet", { type: "button", onclick: () => this.cut() }, "Mask the selection");
    this.element = h(
      "section.subject", {}, h("label", { htmlFor: this.area.id }, holes ? `Text (${hole} marks a missing character)` : "Text"), this.area, this.counter,
      h("div.row", {}, drawer(ctx, bar, (sample) => this.take(sample)), holes ? cut : null),
    );
    this.count();
  }

  enter() {}

  take(sample) {
    this.area.value = sample;
    this.count();
  }

  holed() {
    return { text: this.area.value, hole: this.medium.hole };
  }

  whole() {
    return { texts: [this.area.value] };
  }

  cut() {
    const { selectionStart: from, selectionEnd: to, value } = this.area;
    this.area.setRangeText(this.medium.hole.repeat([...value.slice(from, to)].length), from, to, "end");
    this.area.focus();
    this.count();
  }

  count() {
    const letters = [...this.area.value];
    const holes = letters.filter((letter) => letter === this.medium.hole).length;
    const strange = new Set(letters.filter((letter) => letter !== this.medium.hole && !this.medium.alphabet.has(letter)));
    const missing = this.medium.length - letters.length;
    const more = missing > 0 ? (this.holes ? `${missing} more appended as missing` : `${missing} short`) : missing < 0 ? `${-missing} too many` : null;
    const words = [`${letters.length} of ${many(this.medium.length, "character")}`, this.holes ? `${holes} missing` : null, more];
    if (strange.size) words.push(`not in the alphabet: ${[...strange].slice(0, 8).join(" ")}`);
    this.counter.textContent = words.filter(Boolean).join(" · ");
  }
}
