/** DOM helpers. They never parse HTML strings, so text from the server cannot become markup. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Build an element: h("button.secondary", {onclick}, "Clear").
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

let idCount = 0;

/** Build a label above its control, linked by the control's id. */
export function labelledField(label, control, ...after) {
  control.id ||= `control-${(idCount += 1)}`;
  return h("div.field", {}, h("label", { htmlFor: control.id }, label), h("div.row", {}, control, ...after));
}

/** Build a group of radio buttons, shown as one row; calls onChoose(value). */
export function radioGroup(label, choices, value, onChoose) {
  const name = `group-${(idCount += 1)}`;
  const options = Object.entries(choices).map(([key, text]) =>
    h("label", {}, h("input", { type: "radio", name, value: key, checked: key === value, onchange: () => onChoose(key) }), h("span", {}, text)),
  );
  return h("div.radio-group", { role: "radiogroup", "aria-label": label }, ...options);
}

/** Scroll an element into view if it is outside the upper part of the screen. */
export function scrollIntoUpperView(element) {
  const { top } = element.getBoundingClientRect();
  if (top < 0 || top > innerHeight * 0.4) element.scrollIntoView({ block: "start", behavior: "instant" });
}

/** Download a Blob as a file. */
export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Copy a text. navigator.clipboard exists only on https and localhost; elsewhere execCommand is used. */
export async function copyToClipboard(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = h("textarea.invisible", { value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
