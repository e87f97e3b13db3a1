/** Formatting of numbers, durations and descriptions as text. */

const threeDigits = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const plain = new Intl.NumberFormat("en");
const MOST_DIGITS = 6; // significant digits of a number without an interval, more only before the decimal point
const EXACT_DIGITS = 17; // those of a double

/** Format a measured number with three significant digits, and with an exponent only if it has very many zeros. */
export function formatValue(value) {
  const size = Math.abs(value);
  return size >= 1e9 || (size !== 0 && size < 1e-6) ? value.toExponential(2) : threeDigits.format(value);
}

/** Format a count. */
export const formatCount = (value) => plain.format(value);

/** Format a duration in ms or s. */
export const formatDuration = (seconds) => (seconds < 0.9995 ? `${threeDigits.format(seconds * 1000)} ms` : `${threeDigits.format(seconds)} s`);

/** Format a count with its noun: 1 step, 2 steps. */
export const countOf = (count, noun) => `${formatCount(count)} ${noun}${count === 1 ? "" : "s"}`;

/** Return the power of ten of a number's first digit. */
const exponentOf = (value) => (value === 0 ? -Infinity : Number(value.toExponential().split("e")[1]));

/** Return a number as a text without separators of thousands, because it may be a year or a code.
 *
 * interval: two numbers, whose distance says which digits mean something; at least two are shown.
 */
function plainNumber(value, [low, high]) {
  const [first, width] = [exponentOf(value), high - low];
  const justified = width > 0 && width < Infinity ? Math.max(2, first - exponentOf(width) + 2) : Math.max(MOST_DIGITS, first + 1);
  return String(Number(value.toPrecision(Math.min(justified, EXACT_DIGITS))));
}

/** Return a value of a table's column as a short text; · for a missing or undecided one. interval: see plainNumber. */
export function shownValue(value, { type }, interval = []) {
  if (value === null) return "·";
  if (type === "number" && typeof value === "number") return plainNumber(value, interval); // infinite ones are texts
  return type === "datetime" ? value.replace("T", " ").replace(/(\+00:00|Z)$/, "").replace(" 00:00:00", "") : String(value);
}

/** Return a one-line description of a model. */
export function modelSummary({ family, version, data, latent_dim: latentDim, metrics = {} }) {
  const model = [family, `version ${version}`];
  if (data.kind === "table") return [...model, data.name, countOf(data.columns.length, "column"), data.target && `target ${data.target}`].filter(Boolean).join(" · ");
  const size = data.kind === "image" ? data.shape.slice(1).join(" × ") + (data.shape[0] === 3 ? ", colour" : "") : countOf(data.shape[0], data.alphabet ? "character" : "token");
  const description = `${data.name}, ${size}, ${countOf(data.levels, data.kind === "image" ? "level" : "symbol")}`;
  return [...model, description, latentDim ? countOf(latentDim, "latent dimension") : null, ...measuredQuality(metrics)].filter(Boolean).join(" · ");
}

/** Return the measured quality of a model: bits/dim with its standard error, and the Fréchet distance. */
function measuredQuality({ "eval/bits_per_dim": bits, "eval/bits_per_dim_standard_error": error, "eval/frechet_distance": distance }) {
  const range = error === undefined ? "" : ` ± ${formatValue(error)}`;
  return [bits === undefined ? null : `${formatValue(bits)}${range} bits/dim`, distance === undefined ? null : `Fréchet distance ${formatValue(distance)}`];
}

/** Return a one-line description of how a result was computed. seed is the number sent, because the result's may exceed
 * JavaScript's exact integers. */
export function provenance({ version, sampler, steps, nfe, seconds }, seed) {
  const setting = sampler ? `${sampler}${steps ? `, ${countOf(steps, "step")}` : ""}` : null;
  return [
    `version ${version}`, setting, countOf(nfe, "network evaluation"), `seed ${seed}`,
    `queued ${formatDuration(seconds.queued)}`, `computed ${formatDuration(seconds.computed)}`,
  ].filter(Boolean).join(" · ");
}
