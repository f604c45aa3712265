// The list of conversations, and what is done with them.

import { askKey } from "./api.js";
import { ask, byId, el, field, icon, iconButton, toast } from "./dom.js";
import { begin, changed, listen, loadModels, recall, state } from "./state.js";
import * as store from "./store.js";
import { valid } from "./tree.js";

const side = byId("side");

export function setUp() {
  byId("open-side").append(icon("menu"));
  byId("close-side").append(icon("close"));
  byId("new-chat").prepend(icon("plus"));
  byId("open-side").addEventListener("click", () => open(true));
  byId("close-side").addEventListener("click", () => open(false));
  byId("new-chat").addEventListener("click", fresh);
  byId("search").addEventListener("input", draw);
  byId("export").addEventListener("click", exportAll);
  byId("import").addEventListener("click", () => byId("import-file").click());
  byId("import-file").addEventListener("change", importFile);
  byId("key").addEventListener("click", async () => {
    if (await askKey("The key for this server, if it wants one.")) await loadModels().catch(() => {});
  });
  byId("help").addEventListener("click", help);
  listen(later);
}

export function open(yes) {
  side.classList.toggle("open", yes);
  (yes ? byId("close-side") : byId("open-side")).focus();
}

export function fresh() {
  begin();
  location.hash = "#/chat";
  side.classList.remove("open");
  byId("say").focus();
}

let seen = "";
/** Draws the list when something of it changed: not while a reply grows. */
function later() {
  const { tree } = state;
  const now = JSON.stringify([tree.id, tree.title, Object.keys(tree.messages).length]);
  if (now === seen) return;
  seen = now;
  draw();
}

async function draw() {
  const wanted = byId("search").value.trim().toLowerCase();
  const found = (await store.all()).filter((tree) => !wanted || text(tree).includes(wanted));
  byId("conversations").replaceChildren(...found.map(row));
}

const text = (tree) =>
  [tree.title, ...Object.values(tree.messages).map((each) => each.content)].join("\n").toLowerCase();

function row(tree) {
  const current = tree.id === state.tree.id;
  const show = el("button", { type: "button", class: "row", "aria-current": current ? "true" : null, onclick: async () => {
    await recall(tree.id);
    location.hash = "#/chat";
    side.classList.remove("open");
  } }, tree.title || "Untitled");
  const rename = iconButton("edit", `Rename ${tree.title}`, () => renamed(current ? state.tree : tree));
  const drop = iconButton("trash", `Delete ${tree.title}`, () => removed(tree));
  return el("li", {}, show, rename, drop);
}

async function renamed(tree) {
  const input = el("input", { type: "text", value: tree.title, maxlength: "200" });
  if ((await ask("Rename", [field("Name", input)], [["", "Cancel"], ["ok", "Rename", true]])) !== "ok") return;
  tree.title = input.value.trim() || tree.title;
  await store.save(tree);
  changed();
  draw();
}

async function removed(tree) {
  const answer = await ask("Delete the conversation?", [el("p", {}, tree.title)], [["", "Keep it"], ["ok", "Delete", true]]);
  if (answer !== "ok") return;
  await store.remove(tree.id);
  if (tree.id === state.tree.id) begin();
  draw();
}

async function exportAll() {
  const made = { format: "budmlx-conversations", version: 1, conversations: await store.all() };
  const url = URL.createObjectURL(new Blob([JSON.stringify(made, null, 1)], { type: "application/json" }));
  el("a", { href: url, download: `budmlx-${new Date().toISOString().slice(0, 10)}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

async function importFile({ target }) {
  const [file] = target.files;
  try {
    const { format, version, conversations } = JSON.parse(await file.text());
    if (format !== "budmlx-conversations" || version !== 1 || !conversations.every(valid)) throw new Error("format");
    for (const tree of conversations) await store.save(tree);
    toast(`${conversations.length} conversations are here now.`);
  } catch {
    toast("This file holds no conversations of this page.");
  }
  target.value = "";
  draw();
}

const KEYS = [
  ["Enter", "Send"], ["Shift Enter", "New line"], ["Escape", "Stop the reply"],
  ["Arrow up", "Edit what you said last, in an empty message"], ["/", "Write a message"],
  ["Ctrl/⌘ Shift O", "New chat"], ["Ctrl/⌘ Shift ;", "Copy the last reply"], ["?", "This list"],
];

export async function help() {
  const rows = KEYS.map(([key, words]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, words)]);
  await ask("Keys", [el("dl", { class: "keys" }, rows.flat())], [["", "Close", true]]);
}
