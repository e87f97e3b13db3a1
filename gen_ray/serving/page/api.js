/** Client of the HTTP API: keys, errors, retries when the server is busy, streams. It does not depend on the display. */

const KEY_STORAGE_NAME = "gen_ray.key";
const DEFAULT_RETRY_SECONDS = 2; // an error in a stream has no Retry-After

let promptForKey = async () => null;
let pendingPrompt = null;

/** Set the function that asks the user for a key: prompt(whether a key was rejected) → key, or null if cancelled. */
export function setKeyPrompt(prompt) {
  promptForKey = prompt;
}

/** The API key of this browser tab. sessionStorage deletes it when the tab is closed. */
export const apiKey = {
  get: () => sessionStorage.getItem(KEY_STORAGE_NAME),
  set: (value) => sessionStorage.setItem(KEY_STORAGE_NAME, value),
  remove: () => sessionStorage.removeItem(KEY_STORAGE_NAME),
};

/** An error response of the server; status 0 if there was no response. */
export class ApiError extends Error {
  constructor(status, { code = "", message = "", request_id = "" } = {}, retryAfter = null) {
    super(message || `The server answered ${status}.`);
    Object.assign(this, { status, code, requestId: request_id, retryAfter });
  }
}

/** Return the cards of the served models. */
export async function listModels(options = {}) {
  const list = await withRetries(async () => (await fetchResponse("v1/models", null, options.signal)).json(), options);
  return list.data;
}

/** Send a request and return the JSON result. */
export function postForJson(model, verb, body, options = {}) {
  return withRetries(async () => (await fetchResponse(verbPath(model, verb), body, options.signal)).json(), options);
}

/** Send a request and return the result as a Blob. */
export function postForBlob(model, verb, body, options = {}) {
  return withRetries(async () => (await fetchResponse(verbPath(model, verb), body, options.signal)).blob(), options);
}

/** Send a streaming request, call options.onPreview for each preview, and return the result. */
export function postForStream(model, verb, body, options = {}) {
  return withRetries(async () => {
    const response = await fetchResponse(verbPath(model, verb), { ...body, stream: true }, options.signal);
    for await (const [name, data] of serverSentEvents(response.body)) {
      if (name === "preview") options.onPreview?.(data);
      if (name === "result") return data;
      if (name === "error") throw new ApiError(data.status, data);
    }
    throw new ApiError(0, { message: "The stream ended without a result." });
  }, options);
}

/** Return the request as a curl command. It names the key's environment variable and does not contain the key. */
export function curlCommand(model, verb, body, outputFile) {
  const parts = [
    `curl ${shellQuote(new URL(verbPath(model, verb), document.baseURI.split("#")[0]).href)}`,
    "-H 'Content-Type: application/json'",
    ...(apiKey.get() ? ['-H "Authorization: Bearer $GEN_RAY_API_KEY"'] : []),
    `-d ${shellQuote(JSON.stringify(body))}`,
    ...(outputFile ? [`-o ${shellQuote(outputFile)}`] : []),
  ];
  return parts.join(" \\\n  ");
}

function verbPath(model, verb) {
  return `v1/models/${encodeURIComponent(model)}/${verb}`;
}

function shellQuote(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** Send a request; repeat it after asking for a key (401) or waiting (429). Other errors are thrown. */
async function withRetries(send, { signal, onBusy = () => {} }) {
  for (;;) {
    const usedKey = apiKey.get();
    try {
      return await send();
    } catch (error) {
      if (error.status === 401) await replaceKey(usedKey, error);
      else if (error.status === 429) await countDown(error.retryAfter ?? DEFAULT_RETRY_SECONDS, signal, onBusy);
      else throw error;
    }
  }
}

/** Ask for another key than the rejected one. Concurrent requests share one prompt. */
async function replaceKey(rejectedKey, error) {
  if (apiKey.get() !== rejectedKey) return;
  pendingPrompt ??= promptForKey(rejectedKey !== null).finally(() => (pendingPrompt = null));
  const newKey = await pendingPrompt;
  if (newKey === null) throw error;
  apiKey.set(newKey);
}

async function countDown(seconds, signal, onBusy) {
  for (let remaining = Math.ceil(seconds); remaining > 0; remaining -= 1) {
    onBusy(remaining);
    await sleep(1000, signal);
  }
}

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const onAbort = () => (clearTimeout(timer), reject(signal.reason));
    const timer = setTimeout(() => (signal?.removeEventListener("abort", onAbort), resolve()), milliseconds);
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

/** Send a request and return the response. Throw ApiError if the server reports an error or cannot be reached. */
async function fetchResponse(url, body, signal) {
  const headers = apiKey.get() ? { Authorization: `Bearer ${apiKey.get()}` } : {};
  const request = body ? { method: "POST", body: JSON.stringify(body), headers: { ...headers, "Content-Type": "application/json" } } : { headers };
  let response;
  try {
    response = await fetch(url, { ...request, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The server cannot be reached." });
  }
  if (response.ok) return response;
  const retryAfter = Number(response.headers.get("Retry-After"));
  throw new ApiError(response.status, await response.json().catch(() => ({})), retryAfter > 0 ? retryAfter : null);
}

/** Yield [name, data] of server-sent events. EventSource is not used because it cannot send POST requests. */
async function* serverSentEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (buffer + value).replaceAll("\r\n", "\n").split("\n\n");
    buffer = events.pop(); // an incomplete event
    for (const event of events) {
      const lines = event.split("\n");
      const valuesOf = (field) => lines.filter((line) => line.startsWith(`${field}:`)).map((line) => line.slice(field.length + 1).replace(/^ /, ""));
      const data = valuesOf("data");
      if (data.length) yield [valuesOf("event")[0] ?? "message", JSON.parse(data.join("\n"))]; // otherwise a comment: the heartbeat
    }
  }
}
