/** Sampling for the tabs Sample, Impute and Compare: a stream of previews, then the result, shown in a gallery. */

import * as api from "./api.js";

const PREVIEWS = 24; // enough to watch the samples develop, at negligible cost

/** Send a streaming request and show its previews and result. Return the final status line. */
export async function streamSamples(gallery, verb, request, { signal, onBusy, onProgress }, given) {
  const body = { ...request, format: gallery.renderer.format };
  gallery.reserveTiles(body.n);
  const onPreview = ({ done, total, images, texts, samples }) => {
    gallery.showSamples(images ?? texts ?? samples, given);
    onProgress(done, total);
  };
  const result = await api.postForStream(gallery.card.id, verb, { ...body, previews: PREVIEWS }, { signal, onBusy, onPreview });
  gallery.showResult(result, { verb, body, given });
  return "Done.";
}
