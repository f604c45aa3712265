// The server, as every client sees it: the same paths, the same key, the same errors.

import { ask, el, field } from "./dom.js";

const NAME = "budmlx.key";

export class ApiError extends Error {
  constructor(status, message, details = {}) {
    super(message);
    this.status = status;
    this.code = details.code ?? "";
    this.param = details.param ?? "";
    this.request = details.request ?? "";
  }
}

const key = () => sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME) ?? "";

function keep(value, always) {
  localStorage.removeItem(NAME);
  sessionStorage.removeItem(NAME);
  if (value) (always ? localStorage : sessionStorage).setItem(NAME, value);
}

let asking = null;

/** Asks for the API key, once for all who wait for it. False if there is none. */
export function askKey(why) {
  asking ??= dialog(why).finally(() => (asking = null));
  return asking;
}

async function dialog(why) {
  const input = el("input", { type: "password", autocomplete: "off", value: key(), id: "key-value" });
  const always = el("input", { type: "checkbox", checked: Boolean(localStorage.getItem(NAME)) });
  const answer = await ask("API key", [
    el("p", {}, why),
    field("Key", input, "It stays in this browser and is sent to this server only."),
    el("label", { class: "check" }, always, " Remember it on this device"),
  ], [["", "Cancel"], ["use", "Use key", true]]);
  if (answer !== "use") return false;
  keep(input.value.trim(), always.checked);
  return true;
}

/** The response to a request, asking for a key as long as the server wants one. Throws ApiError. */
export async function call(path, { method = "GET", body, signal, prompt = true } = {}) {
  for (;;) {
    const headers = {};
    if (key()) headers.Authorization = `Bearer ${key()}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const response = await send(path, { method, headers, signal, body: body && JSON.stringify(body) });
    if (response.ok) return response;
    const error = await failure(response);
    const why = key() ? "The server does not know this key." : "This server answers with a key only.";
    if (response.status !== 401 || !prompt || !(await askKey(why))) throw error;
  }
}

async function send(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server cannot be reached.");
  }
}

async function failure(response) {
  const request = response.headers.get("X-Request-Id");
  try {
    return errorOf((await response.json()).error, response.status, request);
  } catch {
    return new ApiError(response.status, `The server answered with ${response.status}.`, { request });
  }
}

function errorOf({ message, code, param }, status, request) {
  return new ApiError(status, message, { code, param, request });
}

export const read = async (path, options) => (await call(path, options)).json();

/** What a streamed chat says: chunks, and `{prefilled: [done, total]}` while the prompt is read. */
export async function* chat(body, signal) {
  const response = await call("v1/chat/completions", { method: "POST", body, signal });
  const request = response.headers.get("X-Request-Id");
  yield { request };
  for await (const line of lines(response.body)) {
    const progress = /^: prefilled (\d+)\/(\d+)/.exec(line);
    if (progress) yield { prefilled: [Number(progress[1]), Number(progress[2])] };
    if (!line.startsWith("data: ")) continue;
    const data = line.slice(6);
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw errorOf(chunk.error, chunk.status_code, request);
    yield chunk;
  }
  throw new ApiError(0, "The connection broke before the reply was complete.", { request });
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield* parts;
  }
}
