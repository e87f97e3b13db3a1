/** A canvas for drawing an image and its mask by touch, mouse or keyboard, at the model's resolution. */

import { h, radioGroup } from "./dom.js";
import { loadImage } from "./renderers.js";

const MASK_COLOUR = "rgb(232 102 60 / 82%)";
const SCREEN_SIZE = 288; // approximate width of the image in screen pixels

export class CanvasEditor {
  constructor() {
    this.imageLayer = h("canvas.image-layer");
    this.maskLayer = h("canvas.mask-layer");
    this.brushOutline = h("div.brush-outline", { hidden: true });
    this.canvas = h("div.canvas", { tabIndex: 0, role: "application" }, this.imageLayer, this.maskLayer, this.brushOutline);
    this.brushSize = h("input", { type: "range", min: 1, step: 1, value: 1, "aria-label": "Brush size", oninput: () => this.showBrushSize() });
    this.brushSizeText = h("span");
    this.colour = h("input", { type: "color", value: "#ffffff", "aria-label": "Paint colour" });
    this.tools = h("div.tools");
    this.element = h("div.canvas-editor", {}, this.canvas, this.tools);
    this.addListeners();
  }

  /** Set the shape of a model's images. The image is kept and scaled; the mask is cleared. */
  setShape([channels, height, width]) {
    const previous = this.imageLayer.width && this.channels ? this.copyImage() : null;
    Object.assign(this, { channels, height, width });
    for (const layer of [this.imageLayer, this.maskLayer]) Object.assign(layer, { width, height });
    const largest = Math.max(width, height);
    const scale = Math.max(1, Math.round(SCREEN_SIZE / largest));
    this.canvas.style.setProperty("--width", `${width * scale}px`);
    this.canvas.style.setProperty("--aspect-ratio", `${width} / ${height}`);
    this.brushSize.max = Math.max(2, Math.round(largest / 3));
    this.brushSize.value = Math.max(1, Math.round(largest / 12));
    this.brush = { x: Math.floor(width / 2), y: Math.floor(height / 2) };
    this.clear();
    if (previous) this.drawImage(previous);
    this.showBrushSize();
  }

  /** Show the tools of a tab, with or without those for masks, and the tab's button for sampling an image. */
  showTools(withMask, sampleButton) {
    const tools = { ...(withMask ? { mask: "Mask", unmask: "Unmask" } : {}), paint: "Paint", erase: "Erase" };
    this.tool = Object.keys(tools)[0];
    this.maskLayer.hidden = !withMask;
    const button = (label, onclick) => h("button.secondary", { type: "button", onclick }, label);
    const upload = h("input.invisible", { type: "file", accept: "image/*", "aria-label": "Upload an image", onchange: () => this.upload(upload) });
    const maskButtons = () => h("div.row", {},
      button("Lower half", () => this.setMask((x, y) => y >= this.height / 2)),
      button("Right half", () => this.setMask((x) => x >= this.width / 2)),
      button("Invert mask", () => this.invertMask()), button("Clear mask", () => this.clearMask()));
    this.canvas.setAttribute("aria-label", `Image of ${this.width} by ${this.height} pixels. Arrow keys move the brush; space paints; shift and an arrow key paint a line.`);
    this.tools.replaceChildren(
      h("div.row", {}, sampleButton, h("label.secondary.upload", {}, "Upload …", upload), button("Clear", () => this.clear())),
      radioGroup("Tool", tools, this.tool, (tool) => (this.tool = tool)),
      h("label.brush", {}, "Brush", this.brushSize, this.brushSizeText),
      ...(this.channels === 3 ? [h("label.brush", {}, "Colour", this.colour)] : []),
      ...(withMask ? [maskButtons()] : []),
    );
  }

  /** The image as a base64 PNG. */
  get imagePng() {
    return this.imageLayer.toDataURL("image/png").split(",")[1];
  }

  /** The mask as a base64 PNG, white where pixels are missing. */
  get maskPng() {
    const canvas = h("canvas", { width: this.width, height: this.height });
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(this.width, this.height);
    this.missing.forEach((missing, i) => pixels.data.set(missing ? [255, 255, 255, 255] : [0, 0, 0, 255], 4 * i));
    context.putImageData(pixels, 0, 0);
    return canvas.toDataURL("image/png").split(",")[1];
  }

  /** An array of booleans, true where pixels are missing, row by row. */
  get missing() {
    const { data } = contextOf(this.maskLayer).getImageData(0, 0, this.width, this.height);
    return Array.from({ length: this.width * this.height }, (_, i) => data[4 * i + 3] > 0);
  }

  /** Show a sample of a model, a base64 PNG. */
  async loadSample(sample) {
    this.drawImage(await loadImage(sample));
  }

  /** Clear the image and the mask. */
  clear() {
    const context = contextOf(this.imageLayer);
    context.fillStyle = "#000";
    context.fillRect(0, 0, this.width, this.height);
    this.clearMask();
  }

  clearMask() {
    contextOf(this.maskLayer).clearRect(0, 0, this.width, this.height);
  }

  invertMask() {
    const { missing } = this;
    this.setMask((x, y) => !missing[y * this.width + x]);
  }

  /** Mask the pixels for which isMissing(x, y) is true. */
  setMask(isMissing) {
    this.clearMask();
    const context = contextOf(this.maskLayer);
    context.fillStyle = MASK_COLOUR;
    for (let y = 0; y < this.height; y += 1) for (let x = 0; x < this.width; x += 1) if (isMissing(x, y)) context.fillRect(x, y, 1, 1);
  }

  async upload(input) {
    const [file] = input.files;
    input.value = ""; // allow choosing the same file again
    if (!file) return;
    try {
      this.drawImage(await createImageBitmap(file));
    } catch {
      this.canvas.dispatchEvent(new CustomEvent("uploaderror", { bubbles: true, detail: `${file.name}: this browser cannot read the file as an image.` }));
    }
  }

  /** Draw an image centred so that it covers the canvas, converted to grey if the model has one channel. */
  drawImage(image) {
    const context = contextOf(this.imageLayer);
    const scale = Math.max(this.width / image.width, this.height / image.height);
    const [width, height] = [image.width * scale, image.height * scale];
    context.imageSmoothingEnabled = scale !== 1;
    context.imageSmoothingQuality = "high";
    context.fillStyle = "#000"; // the background of transparent pixels
    context.fillRect(0, 0, this.width, this.height);
    context.drawImage(image, (this.width - width) / 2, (this.height - height) / 2, width, height);
    if (this.channels === 1) this.convertToGrey(context);
  }

  convertToGrey(context) {
    const pixels = context.getImageData(0, 0, this.width, this.height);
    for (let i = 0; i < pixels.data.length; i += 4) {
      const [r, g, b] = pixels.data.subarray(i, i + 3);
      pixels.data.fill(Math.round(0.299 * r + 0.587 * g + 0.114 * b), i, i + 3);
    }
    context.putImageData(pixels, 0, 0);
  }

  copyImage() {
    const copy = h("canvas", { width: this.width, height: this.height });
    copy.getContext("2d").drawImage(this.imageLayer, 0, 0);
    return copy;
  }

  addListeners() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      this.strokeEnd = this.pixelAt(event);
      this.paintLine(this.strokeEnd, this.strokeEnd);
    });
    canvas.addEventListener("pointermove", (event) => {
      this.brush = this.pixelAt(event);
      this.showBrushOutline();
      if (!this.strokeEnd) return;
      // include the moves between two frames; some browsers do not record them
      const moves = event.getCoalescedEvents?.() ?? [];
      for (const move of moves.length ? moves : [event]) {
        const to = this.pixelAt(move);
        this.paintLine(this.strokeEnd, to);
        this.strokeEnd = to;
      }
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (this.strokeEnd = null));
    for (const leave of ["pointerleave", "blur"]) canvas.addEventListener(leave, () => (this.brushOutline.hidden = true));
    canvas.addEventListener("keydown", (event) => this.onKey(event));
  }

  onKey(event) {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    const pixelCentre = (value, size) => Math.min(Math.max(Math.floor(value), 0), size - 1) + 0.5;
    const from = { x: pixelCentre(this.brush.x, this.width), y: pixelCentre(this.brush.y, this.height) };
    this.brush = move ? { x: pixelCentre(from.x + move[0], this.width), y: pixelCentre(from.y + move[1], this.height) } : from;
    if (!move || event.shiftKey) this.paintLine(from, this.brush); // with shift, moving also paints
    this.showBrushOutline();
  }

  /** Return the position of an event in image pixels. */
  pixelAt({ clientX, clientY }) {
    const { left, top, width, height } = this.imageLayer.getBoundingClientRect();
    return { x: ((clientX - left) / width) * this.width, y: ((clientY - top) / height) * this.height };
  }

  showBrushOutline() {
    const [left, top, size] = this.brushSquare(this.brush);
    this.brushOutline.hidden = false;
    this.brushOutline.style.left = `${(100 * left) / this.width}%`;
    this.brushOutline.style.top = `${(100 * top) / this.height}%`;
    this.brushOutline.style.width = `${(100 * size) / this.width}%`;
    this.brushOutline.style.height = `${(100 * size) / this.height}%`;
  }

  showBrushSize() {
    this.brushSizeText.textContent = `${this.brushSize.value} px`;
  }

  /** Return [left, top, size] of the pixels under the brush: an odd size is centred on a pixel, an even size on a corner. */
  brushSquare({ x, y }) {
    const size = Number(this.brushSize.value);
    const low = (value) => (size % 2 ? Math.floor(value) - (size - 1) / 2 : Math.round(value) - size / 2);
    return [low(x), low(y), size];
  }

  /** Paint along a line, with two positions of the brush per pixel. */
  paintLine(from, to) {
    const count = Math.max(1, Math.ceil(2 * Math.hypot(to.x - from.x, to.y - from.y)));
    for (let i = 0; i <= count; i += 1) {
      this.paint({ x: from.x + ((to.x - from.x) * i) / count, y: from.y + ((to.y - from.y) * i) / count });
    }
  }

  /** Apply the tool to the pixels under the brush at a position. */
  paint(position) {
    const [left, top, size] = this.brushSquare(position);
    const layer = this.tool === "mask" || this.tool === "unmask" ? this.maskLayer : this.imageLayer;
    const context = contextOf(layer);
    context.clearRect(left, top, size, size); // the translucent mask colour must not be drawn twice
    if (this.tool === "unmask") return;
    context.fillStyle = { mask: MASK_COLOUR, paint: this.channels === 3 ? this.colour.value : "#fff", erase: "#000" }[this.tool];
    context.fillRect(left, top, size, size);
  }
}

function contextOf(canvas) {
  return canvas.getContext("2d", { willReadFrequently: true });
}
