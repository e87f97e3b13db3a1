/** Seeded normal random numbers for points of the latent space. They differ from those of the server. */

/** Return n numbers from N(0, 1), the same for the same seed. */
export function standardNormals(seed, n) {
  const uniform = mulberry32(seed);
  return Array.from({ length: n }, () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}

/** Tommy Ettinger's 32-bit generator; the upper half of a long seed is combined with the lower half by XOR. */
function mulberry32(seed) {
  let state = (seed ^ Math.floor(seed / 2 ** 32)) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
