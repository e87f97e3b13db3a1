/** The state of the page in the URL fragment, so that a link shows the same view. */

/** Return the fields of the link as strings. */
export function read() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

/** Change fields of the link; null removes a field. The browser's history gets no entry. */
export function write(changes) {
  const kept = Object.entries({ ...read(), ...changes }).filter(([, value]) => value !== null && value !== undefined);
  history.replaceState(null, "", `#${new URLSearchParams(kept)}`);
}

/** Return an integer field of the link, clipped to the bounds, or a default. */
export function whole(name, low, high, otherwise) {
  const text = read()[name] ?? "";
  return /^\d{1,16}$/.test(text) ? Math.min(Math.max(Number(text), low), high) : otherwise;
}
