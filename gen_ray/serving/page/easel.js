/** A canvas for drawing a picture and its mask by touch, mouse or keys, at the model's resolution. */

import { h, segmented } from "./dom.js";
import { picture } from "./medium.js";

const HOLE = "rgb(232 102 60 / 82%)";
const SCREEN = 288; // approximate width of the picture in screen pixels

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

  /** Set the size of a model's pictures. The picture is kept and scaled; the mask is cleared. */
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

  /** Show the tools of a tab, with or without those for masks; source is the tab's button for getting a picture. */
  equip(holes, source) {
    const tools = { ...(holes ? { hole: "Mask", mend: "Unmask" } : {}), ink: "Ink", rub: "Erase" };
    this.tool = Object.keys(tools)[0];
    this.hole.hidden = !holes;
    const own = (label, click) => h("button.quiet", { type: "button", onclick: click }, label);
    const upload = h("input.offstage", { type: "file", accept: "image/*", "aria-label": "Upload a picture", onchange: () => this.upload(upload) });
    const holed = [own("Lower half", () => this.cut((x, y) => y >= this.height / 2)), own("Right half", () => this.cut((x) => x >= this.width / 2)), own("Invert", () => this.invert()), own("Clear mask", () => this.mend())];
    this.board.setAttribute("aria-label", `Picture of ${this.width} by ${this.height} pixels. Arrow keys move the brush, space paints.`);
    this.tools.replaceChildren(
      h("div.row", {}, source, h("label.quiet.upload", {}, "Upload …", upload), own("Blank", () => this.clear())),
      segmented("Tool", tools, this.tool, (tool) => (this.tool = tool)),
      h("label.brush", {}, "Brush", this.size, this.sizeLabel),
      ...(this.channels === 3 ? [h("label.brush", {}, "Ink", this.colour)] : []),
      ...(holes ? [h("div.row", {}, ...holed)] : []),
    );
  }

  /** The picture as a base64 PNG. */
  get png() {
    return this.paper.toDataURL("image/png").split(",")[1];
  }

  /** The mask as a base64 PNG, white where pixels are missing. */
  get mask() {
    const canvas = h("canvas", { width: this.width, height: this.height });
    const context = canvas.getContext("2d");
    const holes = this.holes;
    const data = context.createImageData(this.width, this.height);
    holes.forEach((hole, i) => data.data.set(hole ? [255, 255, 255, 255] : [0, 0, 0, 255], 4 * i));
    context.putImageData(data, 0, 0);
    return canvas.toDataURL("image/png").split(",")[1];
  }

  /** The mask as an array of booleans, true where pixels are missing. */
  get holes() {
    const { data } = this.on(this.hole).getImageData(0, 0, this.width, this.height);
    return Array.from({ length: this.width * this.height }, (_, i) => data[4 * i + 3] > 0);
  }

  /** Show a sample of a model, a base64 PNG. */
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

  /** Set the mask to the pixels for which rule(x, y) is true. */
  cut(rule) {
    this.mend();
    const context = this.on(this.hole);
    context.fillStyle = HOLE;
    for (let y = 0; y < this.height; y += 1) for (let x = 0; x < this.width; x += 1) if (rule(x, y)) context.fillRect(x, y, 1, 1);
  }

  async upload(input) {
    const [file] = input.files;
    input.value = ""; // allow choosing the same file again
    if (!file) return;
    try {
      this.put(await createImageBitmap(file));
    } catch {
      this.board.dispatchEvent(new CustomEvent("trouble", { bubbles: true, detail: `${file.name}: is not a picture that this browser can read.` }));
    }
  }

  /** Draw a picture centred so that it covers the canvas, converted to grey if the model has one channel. */
  put(image) {
    const context = this.on(this.paper);
    const scale = Math.max(this.width / image.width, this.height / image.height);
    const [width, height] = [image.width * scale, image.height * scale];
    context.imageSmoothingEnabled = scale !== 1;
    context.imageSmoothingQuality = "high";
    context.fillStyle = "#000"; // the background of transparent pixels
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
      // include moves between two frames; some browsers do not record them
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
    if (!move || event.shiftKey) this.stroke(from, this.at); // with shift, moving also paints
    this.hover();
  }

  /** Return the position of an event in the model's pixels. */
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

  /** Return the square of pixels under the brush: an odd size is centred on the pointer's pixel, an even one on the nearest
   * corner. */
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
    context.clearRect(left, top, size, size); // the translucent mask colour must not be drawn twice
    if (this.tool === "mend") return;
    context.fillStyle = { hole: HOLE, ink: this.channels === 3 ? this.colour.value : "#fff", rub: "#000" }[this.tool];
    context.fillRect(left, top, size, size);
  }

  on(canvas) {
    return canvas.getContext("2d", { willReadFrequently: true });
  }
}
