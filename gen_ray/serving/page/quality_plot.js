/** The plot of measured quality against seconds per sample. Each point is a sampler with a number of steps; it can be selected. */

import { h, svg } from "./dom.js";
import { countOf, formatDuration, formatValue } from "./format.js";

const WIDTH = 320;
const HEIGHT = 180;
const MARGIN = { left: 40, right: 12, top: 22, bottom: 30 };
const RADIUS = 3; // of a point; its clickable radius is four times as large

export class QualityPlot {
  /** @param onSelect is called with the selected point {sampler, steps} */
  constructor({ curve, quality = {}, metric }, onSelect) {
    this.points = [...curve].sort((a, b) => a.seconds_per_sample - b.seconds_per_sample);
    this.metric = (metric ?? "quality").split("/").at(-1).replaceAll("_", " ").replace("frechet", "Fréchet");
    this.onSelect = onSelect;
    this.x = createScale(curve.map((point) => point.seconds_per_sample), MARGIN.left, WIDTH - MARGIN.right);
    this.y = createScale(curve.map((point) => point.quality), HEIGHT - MARGIN.bottom, MARGIN.top);
    this.lines = this.pointsBySampler().map(([sampler, points]) => this.createLine(sampler, points));
    this.markers = this.points.map((point, i) => this.createMarker(point, i));
    const plot = svg(
      "svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": `${this.metric} against seconds per sample; lower is better` },
      ...this.createAxes(), ...this.lines, ...this.markers, ...this.points.map((point) => this.createLabel(point, quality)),
    );
    this.caption = h("figcaption");
    this.element = h("figure.quality-plot", {}, plot, this.caption);
    plot.addEventListener("keydown", (event) => this.onKey(event));
    plot.addEventListener("pointerleave", () => this.showCaption(this.selected));
    this.setTabStop(0);
  }

  /** Mark the point of the current setting, if it was measured. */
  markSetting(sampler, steps) {
    this.selected = this.points.find((point) => point.sampler === sampler && point.steps === steps);
    this.markers.forEach((marker, i) => {
      marker.classList.toggle("selected", this.points[i] === this.selected);
      marker.classList.toggle("same-sampler", this.points[i].sampler === sampler);
      marker.setAttribute("aria-pressed", String(this.points[i] === this.selected));
    });
    this.lines.forEach((line) => line.classList.toggle("same-sampler", line.dataset.sampler === sampler));
    this.showCaption(this.selected);
  }

  showCaption(point) {
    this.caption.textContent = point ? this.describe(point) : "Each point is a measured setting. Select a point to use its setting.";
  }

  describe({ sampler, steps, seconds_per_sample: seconds, quality }) {
    return `${sampler}, ${countOf(steps, "step")}: ${this.metric} ${formatValue(quality)} at ${formatDuration(seconds)} per sample`;
  }

  pointsBySampler() {
    const names = new Set(this.points.map((point) => point.sampler));
    return [...names].map((name) => [name, this.points.filter((point) => point.sampler === name).sort((a, b) => a.steps - b.steps)]);
  }

  createLine(sampler, points) {
    return svg("polyline", { "data-sampler": sampler, points: points.map((point) => this.position(point).join()).join(" ") });
  }

  createMarker(point, i) {
    const [cx, cy] = this.position(point);
    const marker = svg(
      "g", { role: "button", "aria-label": this.describe(point), tabindex: -1 },
      svg("circle", { cx, cy, r: RADIUS * 4, class: "click-area" }), svg("circle", { cx, cy, r: RADIUS }),
    );
    marker.addEventListener("click", () => (this.setTabStop(i), this.onSelect(point)));
    marker.addEventListener("pointerenter", () => this.showCaption(point));
    marker.addEventListener("focus", () => this.showCaption(point));
    return marker;
  }

  /** Return the label of a point: the names of its quality levels (fast, balanced, best), if any. */
  createLabel(point, quality) {
    const names = Object.keys(quality).filter((name) => quality[name].sampler === point.sampler && quality[name].steps === point.steps);
    const [x, y] = this.position(point);
    const anchor = x > WIDTH * 0.8 ? "end" : x < WIDTH * 0.25 ? "start" : "middle";
    return svg("text", { x, y: y - 8, class: "quality-level", "text-anchor": anchor }, names.join(", "));
  }

  createAxes() {
    const bottom = HEIGHT - MARGIN.bottom;
    const xTicks = this.x.ticks.map((tick) => svg("text", { x: this.x(tick), y: bottom + 13, "text-anchor": "middle" }, formatDuration(tick)));
    const yTicks = this.y.ticks.map((tick) => svg("text", { x: MARGIN.left - 6, y: this.y(tick) + 3, "text-anchor": "end" }, formatValue(tick)));
    return [
      svg("path", { d: `M${MARGIN.left} ${MARGIN.top - 8}V${bottom}H${WIDTH - MARGIN.right}`, class: "axis" }),
      ...xTicks, ...yTicks,
      svg("text", { x: WIDTH - MARGIN.right, y: HEIGHT - 4, "text-anchor": "end", class: "title" }, "time per sample →"),
      svg("text", { x: 0, y: 9, class: "title" }, `↓ ${this.metric}`),
    ];
  }

  /** Return [x, y] of a point in the plot, rounded to 0.1. */
  position({ seconds_per_sample: seconds, quality }) {
    return [this.x(seconds), this.y(quality)].map((value) => Math.round(value * 10) / 10);
  }

  /** Handle keys. Only one point is in the tab order; the arrow keys move to its neighbours. */
  onKey(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const isSelection = event.key === "Enter" || event.key === " ";
    if (step) this.markers[this.setTabStop((this.tabStop + step + this.markers.length) % this.markers.length)].focus();
    if (isSelection) this.onSelect(this.points[this.tabStop]);
    if (step || isSelection) event.preventDefault();
  }

  /** Put the i-th point into the tab order. */
  setTabStop(i) {
    this.tabStop = i;
    this.markers.forEach((marker, j) => marker.setAttribute("tabindex", i === j ? 0 : -1));
    return i;
  }
}

/** Return a scale from values to positions, logarithmic for positive values with a wide range, with a few round ticks. */
function createScale(values, from, to) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const isLogarithmic = low > 0 && high / low > 3;
  const transform = isLogarithmic ? Math.log10 : (value) => value;
  const span = transform(high) - transform(low) || 1;
  const scale = (value) => from + ((transform(value) - transform(low)) / span) * (to - from);
  scale.ticks = isLogarithmic ? logTicks(low, high) : [...new Set([low, high])];
  return scale;
}

/** Return the ticks 1, 10, 100 …, with intermediate ones if these are few. */
function logTicks(low, high) {
  const ticksWith = (multiples) => {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      ticks.push(...multiples.map((multiple) => multiple * 10 ** power).filter((tick) => tick >= low && tick <= high));
    }
    return ticks;
  };
  return ticksWith([1]).length > 2 ? ticksWith([1]) : ticksWith([1, 3]).length > 2 ? ticksWith([1, 3]) : ticksWith([1, 2, 5]);
}
