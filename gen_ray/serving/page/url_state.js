/** The state of the page in the URL fragment, so that a link shows the same view. */

/** Return the fields of the fragment as strings. */
export function read() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

/** Change fields of the fragment; null removes a field. The browser's history gets no entry. */
export function write(changes) {
  const fields = Object.entries({ ...read(), ...changes }).filter(([, value]) => value !== null && value !== undefined);
  history.replaceState(null, "", `#${new URLSearchParams(fields)}`);
}

/** Return an integer field of the fragment, clipped to the bounds, or the fallback. */
export function readInteger(name, min, max, fallback) {
  const text = read()[name] ?? "";
  return /^\d{1,16}$/.test(text) ? Math.min(Math.max(Number(text), min), max) : fallback;
}
