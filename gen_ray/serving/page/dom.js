/** DOM helpers. They never parse HTML strings, so text of the server cannot become markup. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Build an element: h("button.quiet", {onclick}, "Roll").
 * Properties are set as properties; aria-…, data-…, role and for as attributes; null values are skipped.
 */
export function h(selector, properties = {}, ...children) {
  const [tag, ...classes] = selector.split(".");
  const element = document.createElement(tag);
  element.classList.add(...classes);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Build an SVG element from attributes. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

let count = 0;

/** Build a label above its control, linked by the control's id. */
export function field(title, control, ...after) {
  control.id ||= `control-${(count += 1)}`;
  return h("div.field", {}, h("label", { htmlFor: control.id }, title), h("div.row", {}, control, ...after));
}

/** Build a group of radio buttons, shown as one row; calls chosen(value). */
export function segmented(title, values, value, chosen) {
  const name = `group-${(count += 1)}`;
  const choices = Object.entries(values).map(([key, label]) =>
    h("label", {}, h("input", { type: "radio", name, value: key, checked: key === value, onchange: () => chosen(key) }), h("span", {}, label)),
  );
  return h("div.segmented", { role: "radiogroup", "aria-label": title }, ...choices);
}

/** Scroll an element into view if it is outside the upper part of the screen. */
export function reveal(element) {
  const { top } = element.getBoundingClientRect();
  if (top < 0 || top > innerHeight * 0.4) element.scrollIntoView({ block: "start", behavior: "instant" });
}

/** Download a Blob as a file. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Copy a text. navigator.clipboard exists only on https and localhost; elsewhere execCommand is used. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = h("textarea.offstage", { value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
