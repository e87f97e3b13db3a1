/** The instance that is to be filled, encoded or scored: a picture on the easel, or a text. */

import * as api from "./api.js";
import { h } from "./dom.js";
import { mediumOf } from "./medium.js";
import { many } from "./say.js";

/** Return the subject of a tab. bar tells how it goes while the model draws one; holes says whether it may have some. */
export function subjectOf(ctx, bar, { holes }) {
  return mediumOf(ctx.card).kind === "picture" ? new Picture(ctx, bar, holes) : new Text(ctx, bar, holes);
}

/** Let the model draw one, a different one each time. */
async function drawn({ card }, { signal, busy }) {
  const seed = crypto.getRandomValues(new Uint32Array(1))[0];
  const { format } = mediumOf(card);
  const { samples } = await api.post(card.id, "sample", { n: 1, seed, format }, { signal, busy });
  return samples[0];
}

/** A button that lets the model draw the subject. */
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

  /** Bring the one easel here: what is on it goes along from tab to tab. */
  enter() {
    this.element.append(this.easel.element);
    this.easel.equip(this.holes, this.drawer);
  }

  take(sample) {
    return this.easel.show(sample);
  }

  /** What a request says of one instance with holes. */
  holed() {
    if (!this.easel.holes.some(Boolean)) throw new api.Refusal(0, { message: "There is no hole yet: paint one on the picture." });
    return { image: this.easel.png, mask: this.easel.mask };
  }

  /** What a request says of whole instances. */
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
      placeholder: holes ? `Write, with ${hole} where the model is to fill in` : "Write, or paste",
    });
    this.counter = h("p.cost", { id: `count-${holes}` });
    this.area.setAttribute("aria-describedby", this.counter.id);
    const cut = h("button.quiet", { type: "button", onclick: () => this.cut() }, "Make the selection a hole");
    this.element = h(
      "section.subject", {}, h("label", { htmlFor: this.area.id }, holes ? `Text, ${hole} is a hole` : "Text"), this.area, this.counter,
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
    const more = missing > 0 ? (this.holes ? `${missing} more to come as holes` : `${missing} short`) : missing < 0 ? `${-missing} too many` : null;
    const words = [`${letters.length} of ${many(this.medium.length, "character")}`, this.holes ? many(holes, "hole") : null, more];
    if (strange.size) words.push(`not in the alphabet: ${[...strange].slice(0, 8).join(" ")}`);
    this.counter.textContent = words.filter(Boolean).join(" · ");
  }
}
