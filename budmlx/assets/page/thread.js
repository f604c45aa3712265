// The thread of messages, which follows a reply while its end is in sight.

import { ask, byId, el, field } from "./dom.js";
import { editor, MessageView } from "./message.js";
import { answer } from "./reply.js";
import { changed, keep, model, state } from "./state.js";
import * as trees from "./tree.js";

const NEAR = 80;
const box = byId("thread");
const views = new Map();
let shown = null;
let frame = 0;

/** Draws the thread in the next frame. */
export function draw() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    render();
  });
}

function render() {
  const { tree } = state;
  const messages = trees.path(tree);
  const follows = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR || shown !== tree.id;
  if (shown !== tree.id) views.clear();
  shown = tree.id;
  const made = messages.map((message) => view(message));
  const nodes = made.length ? made.map((each) => each.node) : [welcome()];
  if (nodes.length !== box.children.length || nodes.some((node, at) => node !== box.children[at])) {
    box.replaceChildren(...nodes);
  }
  made.forEach((each) => each.update(branch(tree, each.message)));
  if (follows) box.scrollTop = box.scrollHeight;
}

function view(message) {
  if (views.get(message.id)?.message !== message) views.set(message.id, new MessageView(message, acts));
  return views.get(message.id);
}

function branch(tree, message) {
  const among = trees.children(tree, message.parent);
  return { number: among.indexOf(message) + 1, total: among.length, busy: Boolean(state.controller) };
}

function welcome() {
  const name = model();
  return el("div", { class: "welcome" }, el("p", { class: "large" }, "What would you like to know?"),
    el("p", {}, name ? `${name} answers on this server. Conversations stay in this browser.`
      : "There is no model yet. Conversations stay in this browser."));
}

/** Says something, and has it answered. */
export async function say(content, pictures = []) {
  const { tree } = state;
  const parent = trees.path(tree).at(-1)?.id ?? trees.ROOT;
  await answerTo(tree, trees.add(tree, parent, { role: "user", content, pictures }));
}

async function answerTo(tree, message) {
  tree.title ||= message.content.trim().replace(/\s+/g, " ").slice(0, 80) || "A picture";
  await keep(tree);
  box.scrollTop = box.scrollHeight;
  await answer(message);
}

const acts = {
  async edit(view) {
    const { tree } = state;
    const { message } = view;
    const content = await editor(view);
    if (content === null || !content.trim()) return;
    const { pictures, parent } = message;
    await answerTo(tree, trees.add(tree, parent, { role: "user", content, pictures }));
  },
  async again(message) {
    await answer(state.tree.messages[message.parent]);
  },
  async turn(message, step) {
    trees.turn(state.tree, message, step);
    await keep();
    changed();
  },
  answered(call) {
    return Object.values(state.tree.messages).some((each) => each.call === call);
  },
  async result(message, call) {
    const { tree } = state;
    const area = el("textarea", { rows: "6" });
    const answer = await ask("Result of the call", [field("What the tool returns", area)], [
      ["", "Cancel"], ["give", "Give it", true]]);
    if (answer !== "give") return;
    const parent = trees.path(tree).at(-1).id;
    const result = trees.add(tree, parent, { role: "tool", content: area.value, call });
    if (message.calls.every((each) => acts.answered(each.id))) await answerTo(tree, result);
    else changed();
  },
};

/** Edits what was said last, if there is anything. */
export function editLast() {
  const last = trees.path(state.tree).findLast((message) => message.role === "user");
  if (last && !state.controller) acts.edit(view(last));
}
