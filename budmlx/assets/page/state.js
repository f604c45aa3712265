// What is shown: the conversation, the models, the choices that new conversations begin with.

import { read } from "./api.js";
import * as store from "./store.js";
import * as trees from "./tree.js";

export const EMPTY = { model: "", system: "", parameters: {}, tools: "", other: "" };

export const state = {
  tree: trees.conversation({ ...EMPTY, ...store.recall("settings", {}) }),
  models: [],
  controller: null,
};

const listeners = new Set();

/** Calls a function whenever something that is shown may have changed. */
export function listen(listener) {
  listeners.add(listener);
}

export function changed() {
  for (const listener of listeners) listener();
}

export function begin() {
  const last = store.recall("settings", {});
  select(trees.conversation({ ...EMPTY, ...last, model: last.model ?? state.tree.settings.model }));
}

export function select(tree) {
  state.controller?.abort();
  // A reply that was being written when the page was closed ended then.
  for (const message of Object.values(tree.messages)) {
    if (message.writing) Object.assign(message, { writing: false, stopped: true });
  }
  tree.settings = { ...EMPTY, ...tree.settings };
  state.tree = tree;
  store.remember("shown", tree.id);
  changed();
}

/** Keeps the conversation, once there is something in it. */
export async function keep(tree = state.tree) {
  if (!Object.keys(tree.messages).length) return;
  if (tree === state.tree) store.remember("shown", tree.id);
  await store.save(tree);
}

/** Brings a conversation back: the one with this id, or the one that was shown last. */
export async function recall(id = store.recall("shown", "")) {
  if (id === state.tree.id) return changed();
  const found = (await store.all()).find((tree) => tree.id === id);
  if (found) select(found);
}

/** The model of the conversation: the chosen one while it is served, else the first. */
export function model() {
  const names = state.models.map((each) => each.id);
  const chosen = state.tree.settings.model;
  return names.includes(chosen) ? chosen : (names[0] ?? chosen);
}

export async function loadModels() {
  state.models = (await read("v1/models")).data;
  changed();
}
