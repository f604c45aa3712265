// A reply on its way: from the server's chunks to a message of the conversation.

import { ApiError, chat } from "./api.js";
import { changed, keep, model, state } from "./state.js";
import * as trees from "./tree.js";

const KEEP_EVERY = 1000;

/** What is sent for the conversation up to a message. Throws SyntaxError for what is no JSON. */
function body(tree, last, name) {
  const { system, parameters, tools, other } = tree.settings;
  // Replies that failed before their first token are none.
  const said = [...trees.before(tree, last), last].filter((each) =>
    each.role !== "assistant" || each.content || each.calls?.length);
  const messages = said.map(trees.wire);
  if (system.trim()) messages.unshift({ role: "system", content: system });
  const made = { model: name, messages, stream: true, explain_cache: true, ...parameters };
  made.stream_options = { include_usage: true };
  if (tools.trim()) made.tools = JSON.parse(tools);
  return { ...made, ...(other.trim() ? JSON.parse(other) : {}) };
}

/** Has the model answer a message; the reply becomes a branch after it. */
export async function answer(last) {
  const tree = state.tree;
  const name = model();
  const message = trees.add(tree, last.id, { role: "assistant", content: "", model: name, writing: true });
  const controller = (state.controller = new AbortController());
  changed();
  keep(tree);
  try {
    await follow(chat(body(tree, last, name), controller.signal), tree, message);
  } catch (error) {
    if (error.name === "AbortError") message.stopped = true;
    else message.error = words(error);
  } finally {
    delete message.writing;
    delete message.prefilled;
    if (state.controller === controller) state.controller = null;
    await keep(tree);
    changed();
  }
}

async function follow(chunks, tree, message) {
  const sent = performance.now();
  let kept = sent;
  for await (const chunk of chunks) {
    const now = performance.now();
    take(message, chunk, (now - sent) / 1000);
    if (now - kept > KEEP_EVERY) {
      kept = now;
      await keep(tree);
    }
    changed();
  }
}

function take(message, chunk, elapsed) {
  const stats = (message.stats ??= {});
  if (chunk.request) stats.request = chunk.request;
  if (chunk.prefilled) message.prefilled = chunk.prefilled;
  const [choice] = chunk.choices ?? [];
  if (choice) add(message, choice.delta, () => (stats.first ??= elapsed));
  if (choice?.finish_reason) stats.finish = choice.finish_reason;
  if (chunk.warnings) message.warnings = chunk.warnings;
  if (chunk.cached) stats.cached = true;
  if (chunk.cache_explanation) stats.explanation = chunk.cache_explanation;
  if (chunk.usage) measure(stats, chunk);
}

function add(message, delta, began) {
  const thought = delta.reasoning_content ?? delta.reasoning;
  if (delta.content || thought || delta.tool_calls) {
    began();
    delete message.prefilled;
  }
  if (delta.content) message.content += delta.content;
  if (thought) message.reasoning = (message.reasoning ?? "") + thought;
  for (const { index = 0, id, function: part } of delta.tool_calls ?? []) {
    const calls = (message.calls ??= []);
    calls[index] ??= { id, name: part.name, arguments: "" };
    calls[index].arguments += part.arguments ?? "";
  }
}

function measure(stats, { usage, time_info: time, model: name }) {
  Object.assign(stats, { usage, time, model: name });
  // The first token comes from the prompt; the time is that of the others.
  const written = usage.completion_tokens - 1;
  if (!stats.cached && written > 0 && time?.completion_time > 0) stats.rate = written / time.completion_time;
}

function words(error) {
  if (error instanceof ApiError) {
    const place = error.param && !error.message.includes(error.param) ? ` (${error.param})` : "";
    const about = error.request ? ` Request ${error.request}.` : "";
    return `${error.message}${place}${about}`;
  }
  if (error instanceof SyntaxError) return `The settings hold something that is no JSON: ${error.message}`;
  console.error(error);
  return "Something went wrong in this page; its console says more.";
}
