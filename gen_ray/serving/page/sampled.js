/** What drawing, filling and comparing share: a stream of previews into a gallery, and the answer. */

import * as api from "./api.js";

const PREVIEWS = 24; // enough to see a picture form, few enough to cost nothing

/** Do a verb as a stream and show it. Return the line to end with. */
export async function sampled(gallery, verb, request, { signal, busy, progress }, given) {
  const body = { ...request, format: gallery.medium.format };
  gallery.expect(body.n);
  const preview = ({ done, total, images, texts, samples }) => {
    gallery.put(images ?? texts ?? samples, given);
    progress(done, total);
  };
  const answer = await api.stream(gallery.card.id, verb, { ...body, previews: PREVIEWS }, { signal, busy, preview });
  gallery.show(answer, { verb, body, given });
  return "Done.";
}
