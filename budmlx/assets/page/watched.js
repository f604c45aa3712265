// What the tables and cards of the second view say.

import { bytes, count, seconds } from "./explain.js";

const total = (now, pick) => now.models.reduce((sum, each) => sum + (pick(each) ?? 0), 0);
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const share = (part, whole) => (whole ? `${Math.round((100 * part) / whole)} %` : "–");

/** Name, value, and a remark, of what is seen at once. */
export const CARDS = [
  ["Rows running", (now) => count(total(now, (each) => each.running)),
    (now) => `${count(total(now, (each) => each.waiting))} waiting`],
  ["Tokens a second", (_, history) => count(Math.round(history.tokens.at(-1)?.[1] ?? 0)),
    (now) => `${count(now.written)} written so far`],
  ["Requests in flight", (now) => count(now.places), (now) => `of at most ${count(now.limit)}`],
  ["Memory", (now) => bytes(total(now, (each) => each.memory?.active)),
    (now) => `of ${bytes(total(now, (each) => each.memory?.limit))} for loaded models`],
  ["From the cache", (now) => {
    const known = total(now, (each) => each.cache && each.cache.memory_tokens + each.cache.disk_tokens);
    return share(known, total(now, (each) => each.cache?.prompt_tokens));
  }, (now) => `of prompts; ${bytes(total(now, (each) => each.cache?.stored))} kept`],
  ["Stored replies", (now) => count(now.replayed), () => "requests answered without computing"],
];

const STAGES = { waiting: "waiting", prompt: "reads the prompt", reply: "writes" };

export const RUNNING = [
  { name: "Request", text: (each) => each.request_id, kind: "mono clip" },
  { name: "Model", text: (each) => each.model },
  { name: "Key", text: (each) => each.key || "–" },
  { name: "Route", text: (each) => each.route, kind: "mono" },
  { name: "Now", text: (each) => (each.total
    ? `${STAGES.prompt}, ${count(each.done)} of ${count(each.total)}` : STAGES[each.stage])
    + (each.background ? ", in the background" : "") },
  { name: "Tokens", text: (each) => count(each.out), kind: "number" },
  { name: "For", text: (each) => seconds(each.seconds), kind: "number" },
];

export const BATCHES = [
  { name: "Batch", text: (each) => each.id, kind: "mono clip" },
  { name: "Key", text: (each) => each.key || "–" },
  { name: "Route", text: (each) => each.endpoint, kind: "mono" },
  { name: "State", text: (each) => each.status.replaceAll("_", " ") },
  { name: "Replies", text: (each) => `${count(each.completed)} of ${count(each.total)}`, kind: "number" },
  { name: "Errors", text: (each) => count(each.failed), kind: "number" },
];

export const MODELS = [
  { name: "Model", text: (each) => each.id },
  { name: "State", text: (each) => each.problem || each.progress || each.state, kind: "end" },
  { name: "Running", text: (each) => (each.memory ? count(each.running) : ""), kind: "number" },
  { name: "Waiting", text: (each) => (each.memory ? count(each.waiting) : ""), kind: "number" },
  { name: "Weights", text: ({ memory }) => memory && bytes(memory.weights), kind: "number" },
  { name: "In use", text: ({ memory }) => memory && bytes(memory.active), kind: "number" },
  { name: "At most", text: ({ memory }) => memory && bytes(memory.limit), kind: "number" },
  { name: "Restarts", text: (each) => (each.memory ? count(each.restarts) : ""), kind: "number" },
];

const REASONS = {
  complete: "all of it was stored", new: "the rest was new", differs: "it continues differently",
  retokenised: "the same text in other tokens", evicted: "made way for others",
  other_namespace: "stored for another key", never_seen: "never seen", off: "nothing is kept",
};

export const CACHES = [
  { name: "Model", text: (each) => each.id },
  { name: "In memory", text: ({ cache, memory }) => `${bytes(cache.stored)} of ${bytes(memory.prefix_cache)}`, kind: "number" },
  { name: "Disk read", text: ({ cache }) => bytes(cache.disk_read), kind: "number" },
  { name: "Disk written", text: ({ cache }) => bytes(cache.disk_written), kind: "number" },
  { name: "Prompt tokens", text: ({ cache }) => count(cache.prompt_tokens), kind: "number" },
  { name: "From memory", text: ({ cache }) => share(cache.memory_tokens, cache.prompt_tokens), kind: "number" },
  { name: "From disk", text: ({ cache }) => share(cache.disk_tokens, cache.prompt_tokens), kind: "number" },
  { name: "Why not more", text: ({ cache }) => Object.entries(cache.reasons).sort((a, b) => b[1] - a[1])
    .map(([reason, times]) => `${REASONS[reason] ?? reason} ${count(times)}×`).join(", "), kind: "end" },
];

const number = (value) => (value ? count(value) : "");
const time = (value) => (value === undefined || value === null ? "" : seconds(value));

export const ENDED = [
  { name: "At", text: (each) => clock.format(new Date(each.ended * 1000)), kind: "mono" },
  { name: "Model", text: (each) => each.model ?? "" },
  { name: "Path", text: (each) => each.path, kind: "mono" },
  { name: "Status", text: (each) => each.status || "left", kind: "number" },
  { name: "In", text: (each) => number(each.in), kind: "number" },
  { name: "Cached", text: (each) => number(each.cached), kind: "number" },
  { name: "Out", text: (each) => number(each.out), kind: "number" },
  { name: "First token", text: (each) => time(each.ttft), kind: "number" },
  { name: "Rate", text: (each) => (each.rate ? `${Math.round(each.rate)}/s` : ""), kind: "number" },
  { name: "Took", text: (each) => time(each.seconds), kind: "number" },
  { name: "Key", text: (each) => each.key ?? "" },
  { name: "End", text: (each) => each.reason || [each.finish, each.replayed && "stored reply"].filter(Boolean).join(", "), kind: "end" },
];

/** How a line of the log is shown. */
export function severity(text) {
  const found = /^\S+ \S+ (WARNING|ERROR|CRITICAL) |"level": "(warning|error|critical)"/.exec(text);
  if (!found) return "info";
  return (found[1] ?? found[2]).toLowerCase() === "warning" ? "warning-line" : "error-line";
}
