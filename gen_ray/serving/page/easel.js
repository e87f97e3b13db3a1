/** One picture to draw on or to cut holes into, with finger, mouse or keys, at the model's own size. */

import { h, segmented } from "./dom.js";
import { picture } from "./medium.js";

const HOLE = "rgb(232 102 60 / 82%)";
const SCREEN = 288; // pixels that the picture should be wide, about

export class Easel {
  constructor() {
    this.paper = h("canvas.paper");
    this.hole = h("canvas.hole");
    this.cursor = h("div.cursor", { hidden: true });
    this.board = h("div.board", { tabIndex: 0, role: "application" }, this.paper, this.hole, this.cursor);
    this.size = h("input", { type: "range", min: 1, step: 1, value: 1, "aria-label": "Brush size", oninput: () => this.sized() });
    this.sizeLabel = h("span");
    this.colour = h("input", { type: "color", value: "#ffffff", "aria-label": "Ink" });
    this.tools = h("div.tools");
    this.element = h("div.easel", {}, this.board, this.tools);
    this.listen();
  }

  /** Take the shape of a model's pictures; what is on the paper is kept, scaled. The hole is mended. */
  fit([channels, height, width]) {
    const old = this.paper.width && this.channels ? this.copied() : null;
    Object.assign(this, { channels, height, width });
    for (const canvas of [this.paper, this.hole]) Object.assign(canvas, { width, height });
    const scale = Math.max(1, Math.round(SCREEN / Math.max(width, height)));
    this.board.style.setProperty("--width", `${width * scale}px`);
    this.board.style.setProperty("--ratio", `${width} / ${height}`);
    this.size.max = Math.max(2, Math.round(Math.max(width, height) / 3));
    this.size.value = Math.max(1, Math.round(Math.max(width, height) / 12));
    this.at = { x: Math.floor(width / 2), y: Math.floor(height / 2) };
    this.clear();
    if (old) this.put(old);
    this.sized();
  }

  /** Offer the tools of a tab: with holes or without, and its own way to get a picture. */
  equip(holes, source) {
    const tools = { ...(holes ? { hole: "Hole", mend: "Mend" } : {}), ink: "Ink", rub: "Rub" };
    this.tool = Object.keys(tools)[0];
    this.hole.hidden = !holes;
    const own = (label, click) => h("button.quiet", { type: "button", onclick: click }, label);
    const upload = h("input.offstage", { type: "file", accept: "image/*", "aria-label": "Upload a picture", onchange: () => this.upload(upload) });
    const holed = [own("Lower half", () => this.cut((x, y) => y >= this.height / 2)), own("Right half", () => this.cut((x) => x >= this.width / 2)), own("Invert", () => this.invert()), own("No hole", () => this.mend())];
    this.board.setAttribute("aria-label", `Picture of ${this.width} by ${this.height} pixels. Arrow keys move the brush, space paints.`);
    this.tools.replaceChildren(
      h("div.row", {}, source, h("label.quiet.upload", {}, "Upload …", upload), own("Blank", () => this.clear())),
      segmented("Tool", tools, this.tool, (tool) => (this.tool = tool)),
      h("label.brush", {}, "Brush", this.size, this.sizeLabel),
      ...(this.channels === 3 ? [h("label.brush", {}, "Ink", this.colour)] : []),
      ...(holes ? [h("div.row", {}, ...holed)] : []),
    );
  }

  /** The picture as base64 of a PNG. */
  get png() {
    return this.paper.toDataURL("image/png").split(",")[1];
  }

  /** The hole as base64 of a PNG, white where it is. */
  get mask() {
    const canvas = h("canvas", { width: this.width, height: this.height });
    const context = canvas.getContext("2d");
    const holes = this.holes;
    const data = context.createImageData(this.width, this.height);
    holes.forEach((hole, i) => data.data.set(hole ? [255, 255, 255, 255] : [0, 0, 0, 255], 4 * i));
    context.putImageData(data, 0, 0);
    return canvas.toDataURL("image/png").split(",")[1];
  }

  /** Whether there is a hole, pixel by pixel. */
  get holes() {
    const { data } = this.on(this.hole).getImageData(0, 0, this.width, this.height);
    return Array.from({ length: this.width * this.height }, (_, i) => data[4 * i + 3] > 0);
  }

  /** Put a sample of a model on the paper, base64 of a PNG. */
  async show(sample) {
    this.put(await picture(sample));
  }

  clear() {
    const context = this.on(this.paper);
    context.fillStyle = "#000";
    context.fillRect(0, 0, this.width, this.height);
    this.mend();
  }

  mend() {
    this.on(this.hole).clearRect(0, 0, this.width, this.height);
  }

  invert() {
    const holes = this.holes;
    this.cut((x, y) => !holes[y * this.width + x]);
  }

  /** Make a hole of just the pixels that a rule says. */
  cut(rule) {
    this.mend();
    const context = this.on(this.hole);
    context.fillStyle = HOLE;
    for (let y = 0; y < this.height; y += 1) for (let x = 0; x < this.width; x += 1) if (rule(x, y)) context.fillRect(x, y, 1, 1);
  }

  async upload(input) {
    const [file] = input.files;
    input.value = ""; // so that the same file can be chosen again
    if (!file) return;
    try {
      this.put(await createImageBitmap(file));
    } catch {
      this.board.dispatchEvent(new CustomEvent("trouble", { bubbles: true, detail: `${file.name}: is not a picture that this browser can read.` }));
    }
  }

  /** Draw a picture so that it covers the paper, its middle in the middle, grey where the model knows no colours. */
  put(image) {
    const context = this.on(this.paper);
    const scale = Math.max(this.width / image.width, this.height / image.height);
    const [width, height] = [image.width * scale, image.height * scale];
    context.imageSmoothingEnabled = scale !== 1;
    context.imageSmoothingQuality = "high";
    context.fillStyle = "#000"; // below what is transparent
    context.fillRect(0, 0, this.width, this.height);
    context.drawImage(image, (this.width - width) / 2, (this.height - height) / 2, width, height);
    if (this.channels === 1) this.grey(context);
  }

  grey(context) {
    const area = context.getImageData(0, 0, this.width, this.height);
    for (let i = 0; i < area.data.length; i += 4) {
      const [r, g, b] = area.data.subarray(i, i + 3);
      area.data.fill(Math.round(0.299 * r + 0.587 * g + 0.114 * b), i, i + 3);
    }
    context.putImageData(area, 0, 0);
  }

  copied() {
    const copy = h("canvas", { width: this.width, height: this.height });
    copy.getContext("2d").drawImage(this.paper, 0, 0);
    return copy;
  }

  listen() {
    const board = this.board;
    board.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      board.setPointerCapture(event.pointerId);
      this.last = this.point(event);
      this.stroke(this.last, this.last);
    });
    board.addEventListener("pointermove", (event) => {
      this.at = this.point(event);
      this.hover();
      if (!this.last) return;
      // what the hand did between two frames counts too; some browsers have no record of it
      const moves = event.getCoalescedEvents?.() ?? [];
      for (const move of moves.length ? moves : [event]) {
        const to = this.point(move);
        this.stroke(this.last, to);
        this.last = to;
      }
    });
    for (const end of ["pointerup", "pointercancel"]) board.addEventListener(end, () => (this.last = null));
    board.addEventListener("pointerleave", () => (this.cursor.hidden = true));
    board.addEventListener("blur", () => (this.cursor.hidden = true));
    board.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    const within = (value, size) => Math.min(Math.max(Math.floor(value), 0), size - 1) + 0.5;
    const from = { x: within(this.at.x, this.width), y: within(this.at.y, this.height) };
    this.at = move ? { x: within(from.x + move[0], this.width), y: within(from.y + move[1], this.height) } : from;
    if (!move || event.shiftKey) this.stroke(from, this.at); // shift draws while it moves
    this.hover();
  }

  /** Where an event is, in the model's pixels. */
  point({ clientX, clientY }) {
    const { left, top, width, height } = this.paper.getBoundingClientRect();
    return { x: ((clientX - left) / width) * this.width, y: ((clientY - top) / height) * this.height };
  }

  hover() {
    const [left, top, size] = this.footprint(this.at);
    this.cursor.hidden = false;
    this.cursor.style.left = `${(100 * left) / this.width}%`;
    this.cursor.style.top = `${(100 * top) / this.height}%`;
    this.cursor.style.width = `${(100 * size) / this.width}%`;
    this.cursor.style.height = `${(100 * size) / this.height}%`;
  }

  sized() {
    this.sizeLabel.textContent = `${this.size.value} px`;
  }

  /** The square of pixels under the brush: an odd one has its middle under the hand, an even one its nearest corner. */
  footprint({ x, y }) {
    const size = Number(this.size.value);
    const low = (value) => (size % 2 ? Math.floor(value) - (size - 1) / 2 : Math.round(value) - size / 2);
    return [low(x), low(y), size];
  }

  stroke(from, to) {
    const long = Math.max(1, Math.ceil(2 * Math.hypot(to.x - from.x, to.y - from.y)));
    for (let i = 0; i <= long; i += 1) {
      this.dab({ x: from.x + ((to.x - from.x) * i) / long, y: from.y + ((to.y - from.y) * i) / long });
    }
  }

  dab(at) {
    const [left, top, size] = this.footprint(at);
    const layer = this.tool === "hole" || this.tool === "mend" ? this.hole : this.paper;
    const context = this.on(layer);
    context.clearRect(left, top, size, size); // the hole's colour is not to lie twice on itself
    if (this.tool === "mend") return;
    context.fillStyle = { hole: HOLE, ink: this.channels === 3 ? this.colour.value : "#fff", rub: "#000" }[this.tool];
    context.fillRect(left, top, size, size);
  }

  on(canvas) {
    return canvas.getContext("2d", { willReadFrequently: true });
  }
}
