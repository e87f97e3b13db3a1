/** The client of the server's API: keys, errors, retries when the server is busy, streams. Independent of the display. */

const KEY = "gen_ray.key";
const BUSY_SECONDS = 2; // wait after an error in a stream, which has no Retry-After

let ask = async () => null;
let asking = null;

/** Set the function that asks the user for a key: asker(whether a key was refused) → key, or null. */
export function askWith(asker) {
  ask = asker;
}

/** The API key of this browser tab; sessionStorage deletes it when the tab is closed. */
export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** An error response of the server; status 0 if there was no response. */
export class Refusal extends Error {
  constructor(status, { code = "", message = "", request_id = "" } = {}, retryAfter = null) {
    super(message || `The server answered ${status}.`);
    Object.assign(this, { status, code, requestId: request_id, retryAfter });
  }
}

/** Return the cards of the served models. */
export async function models(options = {}) {
  const listed = await patiently(async () => (await reach("v1/models", null, options.signal)).json(), options);
  return listed.data;
}

/** Send a request and return the JSON result. */
export function post(model, verb, body, options = {}) {
  return patiently(async () => (await reach(path(model, verb), body, options.signal)).json(), options);
}

/** Send a request and return the result as a Blob. */
export function file(model, verb, body, options = {}) {
  return patiently(async () => (await reach(path(model, verb), body, options.signal)).blob(), options);
}

/** Send a streaming request, call options.preview for each preview, and return the result. */
export function stream(model, verb, body, options = {}) {
  return patiently(async () => {
    const response = await reach(path(model, verb), { ...body, stream: true }, options.signal);
    for await (const [name, data] of events(response.body)) {
      if (name === "preview") options.preview?.(data);
      if (name === "result") return data;
      if (name === "error") throw new Refusal(data.status, data);
    }
    throw new Refusal(0, { message: "The stream ended without a result." });
  }, options);
}

/** Return the request as a curl command. It names the key's environment variable and does not contain the key. */
export function curl(model, verb, body, output) {
  const parts = [
    `curl ${quoted(new URL(path(model, verb), document.baseURI.split("#")[0]).href)}`,
    "-H 'Content-Type: application/json'",
    ...(key.get() ? ['-H "Authorization: Bearer $GEN_RAY_API_KEY"'] : []),
    `-d ${quoted(JSON.stringify(body))}`,
    ...(output ? [`-o ${quoted(output)}`] : []),
  ];
  return parts.join(" \\\n  ");
}

function path(model, verb) {
  return `v1/models/${encodeURIComponent(model)}/${verb}`;
}

function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** Repeat an attempt after asking for a key (401) or waiting (429). Other errors are thrown. */
async function patiently(attempt, { signal, busy = () => {} }) {
  for (;;) {
    const shown = key.get();
    try {
      return await attempt();
    } catch (error) {
      if (error.status === 401) await otherKey(shown, error);
      else if (error.status === 429) await countdown(error.retryAfter ?? BUSY_SECONDS, signal, busy);
      else throw error;
    }
  }
}

/** Ask for a key other than the refused one. Concurrent requests ask only once. */
async function otherKey(shown, error) {
  if (key.get() !== shown) return;
  asking ??= ask(shown !== null).finally(() => (asking = null));
  const given = await asking;
  if (given === null) throw error;
  key.set(given);
}

async function countdown(seconds, signal, busy) {
  for (let left = Math.ceil(seconds); left > 0; left -= 1) {
    busy(left);
    await sleep(1000, signal);
  }
}

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const stopped = () => (clearTimeout(timer), reject(signal.reason));
    const timer = setTimeout(() => (signal?.removeEventListener("abort", stopped), resolve()), milliseconds);
    signal?.addEventListener("abort", stopped, { once: true });
  });
}

async function reach(url, body, signal) {
  const headers = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
  const asked = body ? { method: "POST", body: JSON.stringify(body), headers: { ...headers, "Content-Type": "application/json" } } : { headers };
  let response;
  try {
    response = await fetch(url, { ...asked, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, { message: "The server cannot be reached." });
  }
  if (response.ok) return response;
  const after = Number(response.headers.get("Retry-After"));
  throw new Refusal(response.status, await response.json().catch(() => ({})), after > 0 ? after : null);
}

/** Yield [name, data] of server-sent events. EventSource is not used because it cannot send POST requests. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (text + value).replaceAll("\r\n", "\n").split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const lines = part.split("\n");
      const of = (field) => lines.filter((line) => line.startsWith(`${field}:`)).map((line) => line.slice(field.length + 1).replace(/^ /, ""));
      const data = of("data");
      if (data.length) yield [of("event")[0] ?? "message", JSON.parse(data.join("\n"))]; // otherwise a comment: the heartbeat
    }
  }
}
