/** What a link to this view says: everything after #. One place, so that what is shown and what is shared agree. */

/** Return what the link says, all as text. */
export function read() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

/** Change what the link says; null takes a word out. The history keeps no entry of every move of a slider. */
export function write(changes) {
  const kept = Object.entries({ ...read(), ...changes }).filter(([, value]) => value !== null && value !== undefined);
  history.replaceState(null, "", `#${new URLSearchParams(kept)}`);
}

/** Return a whole number that the link says, within bounds, or else a given one. */
export function whole(name, low, high, otherwise) {
  const text = read()[name] ?? "";
  return /^\d{1,16}$/.test(text) ? Math.min(Math.max(Number(text), low), high) : otherwise;
}
