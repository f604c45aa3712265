// Numbers of a reply in words.

const NUMBER = new Intl.NumberFormat("en");

export const count = (value) => NUMBER.format(value);

export function seconds(value) {
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  return value < 60 ? `${value.toFixed(1)} s` : `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let step = 0;
  while (value >= 1024 && step < units.length - 1) {
    value /= 1024;
    step += 1;
  }
  return `${step && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[step]}`;
}

const REASONS = {
  complete: () => "All of the prompt was stored.",
  new: () => "All that was stored of this conversation was reused; the rest is new.",
  differs: (at) => `A prompt that was stored continues differently${at}.`,
  retokenised: (at) => `A prompt that was stored has the same text in other tokens${at}.`,
  evicted: () => "The rest was stored once, and made way for other prompts.",
  other_namespace: () => "The rest is stored for another key or cache_salt, which is not shared.",
  never_seen: () => "No prompt like this one came before.",
  off: () => "The server keeps nothing for later prompts.",
};

/** Why no more of the prompt was reused. */
export function cacheReason(found) {
  const quoted = found.text ? `, at “${found.text}”` : "";
  const at = found.message === undefined || found.message === null
    ? quoted : ` in message ${found.message + 1}${quoted}`;
  return (REASONS[found.reason] ?? (() => ""))(at);
}

/** How much of the prompt was reused, and from where. */
export function cacheUse({ matched_tokens: matched, prompt_tokens: total, tier }) {
  if (!matched) return `None of the ${count(total)} tokens of the prompt was reused.`;
  const where = tier === "disk" ? "the disk" : "memory";
  return `${count(matched)} of the ${count(total)} tokens of the prompt came from ${where} and were not computed.`;
}

/** One line: speed, first token, cache. */
export function brief({ usage, rate, first, cached }) {
  const parts = [];
  if (cached) parts.push("stored reply");
  if (rate) parts.push(`${rate < 100 ? rate.toFixed(1) : Math.round(rate)} tok/s`);
  if (first !== undefined) parts.push(`first token ${seconds(first)}`);
  if (usage) {
    const known = usage.prompt_tokens_details?.cached_tokens ?? 0;
    parts.push(known ? `${count(known)} of ${count(usage.prompt_tokens)} prompt tokens cached`
      : `${count(usage.prompt_tokens)} prompt tokens`);
  }
  return parts.join(" · ");
}

/** All that is known, as pairs of a name and words. */
export function details({ usage, time, rate, first, explanation, model, request, finish }) {
  const found = [];
  const say = (name, words) => words && found.push([name, words]);
  say("Model", model);
  say("First token", first !== undefined && `${seconds(first)} after it was sent`);
  if (time) {
    say("Queue", seconds(time.queue_time));
    say("Reading the prompt", seconds(time.prompt_time));
    say("Writing", `${seconds(time.completion_time)}${rate ? `, ${rate.toFixed(1)} tokens a second` : ""}`);
  }
  if (usage) {
    const thought = usage.completion_tokens_details?.reasoning_tokens;
    say("Tokens", `${count(usage.prompt_tokens)} in, ${count(usage.completion_tokens)} out` +
      (thought ? `, ${count(thought)} of them reasoning` : ""));
  }
  if (explanation) say("Cache", `${cacheUse(explanation)} ${cacheReason(explanation)}`);
  say("Ended", { stop: "by itself", length: "at the limit of tokens", tool_calls: "to call a tool",
    content_filter: "by a filter" }[finish]);
  say("Request", request);
  return found;
}
