/** The measured plot of quality against seconds. Each point is a sampler with a number of steps and can be selected. */

import { h, svg } from "./dom.js";
import { figure, many, time } from "./say.js";

const WIDTH = 320;
const HEIGHT = 180;
const EDGE = { left: 40, right: 12, top: 22, bottom: 30 };
const NEAR = 3; // radius of points; their clickable radius is four times as large

export class Curve {
  /** @param picked is called with the selected point {sampler, steps} */
  constructor({ curve, quality = {}, metric }, picked) {
    this.points = [...curve].sort((a, b) => a.seconds_per_sample - b.seconds_per_sample);
    this.metric = (metric ?? "quality").split("/").at(-1).replaceAll("_", " ");
    this.picked = picked;
    this.x = scale(curve.map((point) => point.seconds_per_sample), EDGE.left, WIDTH - EDGE.right);
    this.y = scale(curve.map((point) => point.quality), HEIGHT - EDGE.bottom, EDGE.top);
    this.lines = this.grouped().map(([sampler, line]) => this.line(sampler, line));
    this.dots = this.points.map((point, i) => this.dot(point, i));
    const drawing = svg(
      "svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": `${this.metric} against seconds per sample; lower is better` },
      ...this.axes(), ...this.lines, ...this.dots, ...this.points.map((point) => this.label(point, quality)),
    );
    this.caption = h("figcaption");
    this.element = h("figure.curve", {}, drawing, this.caption);
    drawing.addEventListener("keydown", (event) => this.walk(event));
    drawing.addEventListener("pointerleave", () => this.tell(this.marked));
    this.reach(0);
  }

  /** Mark the point of the current settings, if there is one. */
  mark(sampler, steps) {
    this.marked = this.points.find((point) => point.sampler === sampler && point.steps === steps);
    this.dots.forEach((dot, i) => {
      dot.classList.toggle("marked", this.points[i] === this.marked);
      dot.setAttribute("aria-pressed", String(this.points[i] === this.marked));
    });
    this.lines.forEach((line) => line.classList.toggle("own", line.dataset.sampler === sampler));
    this.dots.forEach((dot, i) => dot.classList.toggle("own", this.points[i].sampler === sampler));
    this.tell(this.marked);
  }

  tell(point) {
    this.caption.textContent = point ? this.words(point) : "Each point is a measured setting; select one.";
  }

  words({ sampler, steps, seconds_per_sample: seconds, quality }) {
    return `${sampler}, ${many(steps, "step")}: ${this.metric} ${figure(quality)} at ${time(seconds)} per sample`;
  }

  grouped() {
    const names = new Set(this.points.map((point) => point.sampler));
    return [...names].map((name) => [name, this.points.filter((point) => point.sampler === name).sort((a, b) => a.steps - b.steps)]);
  }

  line(sampler, points) {
    return svg("polyline", { "data-sampler": sampler, points: points.map((point) => this.at(point).join()).join(" ") });
  }

  dot(point, i) {
    const [cx, cy] = this.at(point);
    const dot = svg(
      "g", { role: "button", "aria-label": this.words(point), tabindex: -1 },
      svg("circle", { cx, cy, r: NEAR * 4, class: "hit" }), svg("circle", { cx, cy, r: NEAR }),
    );
    dot.addEventListener("click", () => (this.reach(i), this.picked(point)));
    dot.addEventListener("pointerenter", () => this.tell(point));
    dot.addEventListener("focus", () => this.tell(point));
    return dot;
  }

  /** Return the label of a point: fast, balanced, best, or several of them. */
  label(point, quality) {
    const names = Object.keys(quality).filter((name) => quality[name].sampler === point.sampler && quality[name].steps === point.steps);
    const [x, y] = this.at(point);
    const anchor = x > WIDTH * 0.8 ? "end" : x < WIDTH * 0.25 ? "start" : "middle";
    return svg("text", { x, y: y - 8, class: "grade", "text-anchor": anchor }, names.join(", "));
  }

  axes() {
    const floor = HEIGHT - EDGE.bottom;
    const across = this.x.ticks.map((tick) => svg("text", { x: this.x(tick), y: floor + 13, "text-anchor": "middle" }, time(tick)));
    const up = this.y.ticks.map((tick) => svg("text", { x: EDGE.left - 6, y: this.y(tick) + 3, "text-anchor": "end" }, figure(tick)));
    return [
      svg("path", { d: `M${EDGE.left} ${EDGE.top - 8}V${floor}H${WIDTH - EDGE.right}`, class: "axis" }),
      ...across, ...up,
      svg("text", { x: WIDTH - EDGE.right, y: HEIGHT - 4, "text-anchor": "end", class: "title" }, "time per sample →"),
      svg("text", { x: 0, y: 9, class: "title" }, `↓ ${this.metric}`),
    ];
  }

  at({ seconds_per_sample: seconds, quality }) {
    return [this.x(seconds), this.y(quality)].map((place) => Math.round(place * 10) / 10);
  }

  /** Handle keys. Only one point is in the tab order; the arrow keys move to its neighbours. */
  walk(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by) this.dots[this.reach((this.reached + by + this.dots.length) % this.dots.length)].focus();
    if (event.key === "Enter" || event.key === " ") this.picked(this.points[this.reached]);
    if (by || event.key === "Enter" || event.key === " ") event.preventDefault();
  }

  reach(i) {
    this.reached = i;
    this.dots.forEach((dot, j) => dot.setAttribute("tabindex", i === j ? 0 : -1));
    return i;
  }
}

/** Return a scale from values to positions, logarithmic for positive values with a wide range, with a few round ticks. */
function scale(values, from, to) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const bend = low > 0 && high / low > 3 ? Math.log10 : (value) => value;
  const span = bend(high) - bend(low) || 1;
  const place = (value) => from + ((bend(value) - bend(low)) / span) * (to - from);
  place.ticks = bend === Math.log10 ? decades(low, high) : [...new Set([low, high])];
  return place;
}

/** Return the ticks 1, 10, 100 …, with intermediate ones if these are few. */
function decades(low, high) {
  const found = (steps) => {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      ticks.push(...steps.map((step) => step * 10 ** power).filter((tick) => tick >= low && tick <= high));
    }
    return ticks;
  };
  return found([1]).length > 2 ? found([1]) : found([1, 3]).length > 2 ? found([1, 3]) : found([1, 2, 5]);
}
