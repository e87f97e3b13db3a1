/** Sampling for the tabs Draw, Fill and Compare: a stream of previews, then the result, shown in a gallery. */

import * as api from "./api.js";

const PREVIEWS = 24; // enough to follow a picture, at negligible cost

/** Send a streaming request and show its previews and result. Return the final status line. */
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
