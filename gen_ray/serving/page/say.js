/** Formatting of numbers, times and facts as text. */

const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const plain = new Intl.NumberFormat("en");

/** Format a measured number with three digits. */
export const figure = (value) => (Math.abs(value) >= 1000 || (value !== 0 && Math.abs(value) < 0.001) ? value.toExponential(1) : short.format(value));

/** Format a count. */
export const number = (value) => plain.format(value);

/** Format a time in ms or s. */
export const time = (seconds) => (seconds < 0.9995 ? `${short.format(seconds * 1000)} ms` : `${short.format(seconds)} s`);

/** Format a count with its noun. */
export const many = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** Return one line on a model. */
export function facts({ family, version, data, latent_dim: latent, metrics = {} }) {
  const size = data.kind === "image" ? data.shape.slice(1).join(" × ") + (data.shape[0] === 3 ? ", colour" : "") : many(data.shape[0], data.alphabet ? "character" : "token");
  return [family, `version ${version}`, `${data.name}, ${size}, ${number(data.levels)} levels`, latent ? many(latent, "latent dimension") : null, ...measured(metrics)].filter(Boolean).join(" · ");
}

/** Return the measured quality of a model: bits/dim with its standard error, and the Fréchet distance. */
function measured({ "eval/bits_per_dim": bits, "eval/bits_per_dim_standard_error": error, "eval/frechet_distance": distance }) {
  const range = error === undefined ? "" : ` ± ${figure(error)}`;
  return [bits === undefined ? null : `${figure(bits)}${range} bits/dim`, distance === undefined ? null : `Fréchet distance ${figure(distance)}`];
}

/** Return one line on the provenance of a result. seed is the one sent, because that of the result may exceed JavaScript's
 * exact integers. */
export function provenance({ version, sampler, steps, nfe, seconds }, seed) {
  const how = sampler ? `${sampler}${steps ? `, ${many(steps, "step")}` : ""}` : null;
  return [
    `version ${version}`, how, many(nfe, "network evaluation"), `seed ${seed}`,
    `queued ${time(seconds.queued)}`, `computed ${time(seconds.computed)}`,
  ].filter(Boolean).join(" · ");
}
