// The second view: what the server does now, looked at once a second while it is shown.

import { askKey, call, read } from "./api.js";
import { byId, copy, el, toast } from "./dom.js";
import { count, seconds } from "./explain.js";
import { Plot } from "./plot.js";
import { Table } from "./table.js";
import * as views from "./watched.js";

const EVERY = 1000;
const KEPT = 600;
const history = { tokens: [], running: [], waiting: [] };
let shown = false;
let timer = 0;
let last = null;
let line = 0;
let parts = null;

export function setUp() {
  document.addEventListener("visibilitychange", () => shown && !document.hidden && again(0));
}

export function show(yes) {
  shown = yes;
  clearTimeout(timer);
  if (!yes) return;
  parts ??= build();
  again(0);
}

function again(wait) {
  clearTimeout(timer);
  timer = setTimeout(look, wait);
}

async function look() {
  if (!shown || document.hidden) return;
  try {
    const [now, log] = await Promise.all([read(last ? "v1/watch" : "v1/watch?history=true"), read(`v1/log?after=${line}`)]);
    refused("");
    draw(now);
    append(log.lines);
  } catch (error) {
    refused(error.message, error.status);
    if (error.status === 401 || error.status === 403) return;
  }
  if (shown) again(EVERY);
}

function refused(words, status = 0) {
  parts.problem.hidden = !words;
  parts.problemText.textContent = words;
  parts.useKey.hidden = status !== 401 && status !== 403;
  parts.all.classList.toggle("stale", Boolean(words));
  if (words) parts.state.textContent = "Not up to date";
}

function build() {
  const problemText = el("span", {});
  const useKey = el("button", { type: "button", hidden: true, onclick: async () => {
    if (await askKey("Watching needs an admin key.")) again(0);
  } }, "Use another key");
  const problem = el("p", { class: "error", role: "alert", hidden: true }, problemText, " ", useKey);
  const state = el("p", { class: "note", id: "watch-state" });
  const cards = views.CARDS.map(([name]) => {
    const value = el("strong", {}, "–");
    const note = el("small", {});
    return { value, note, node: el("div", { class: "card" }, el("span", {}, name), value, note) };
  });
  const plots = [
    new Plot("Tokens a second", ["all replies"], (value) => count(Math.round(value))),
    new Plot("Rows", ["running", "waiting"], (value) => count(value)),
    new Plot("Time to the first token", ["requests"], seconds, { dots: true }),
    new Plot("Time for a token", ["requests"], seconds, { dots: true }),
  ];
  const running = new Table("Running requests", [...views.RUNNING, { node: cancelButton }], "Nothing is running.");
  const batches = new Table("Batches", views.BATCHES, "No batch is running.");
  const models = new Table("Models", [...views.MODELS, { node: loadButton, update: setLoad }], "There are no models.");
  const caches = new Table("Prefix caches", views.CACHES, "No model is loaded.");
  const ended = new Table("Requests that ended", [{ name: "Request", node: idButton, update: setId }, ...views.ENDED],
    "No request has ended since the server began.");
  const log = el("pre", { id: "log", tabindex: "0", "aria-label": "Log" });
  const section = (title, ...children) => el("section", { class: "panel" }, el("h2", {}, title), children);
  const all = el("div", { class: "panels" }, el("div", { class: "cards" }, cards.map((each) => each.node)),
    el("div", { class: "plots" }, plots.map((each) => each.node)), section("Running now", running.node),
    section("Batches", batches.node), section("Models", models.node), section("Prefix cache", caches.node),
    section("Ended last", ended.node), section("Log", log));
  const open = el("button", { type: "button", class: "quiet narrow-text", onclick: () => byId("open-side").click() }, "Menu");
  byId("watch").replaceChildren(el("header", { class: "top" }, open, el("h1", {}, "Watch"), state), problem, all);
  return { problem, problemText, useKey, state, cards, plots, running, batches, models, caches, ended, log, all };
}

function draw(now) {
  note(now);
  parts.state.textContent = now.draining ? "The server is shutting down" : "Up to date";
  parts.cards.forEach(({ value, note }, at) => {
    const [, main, small] = views.CARDS[at];
    value.textContent = main(now, history);
    note.textContent = small(now, history);
  });
  const answered = now.ended.filter((each) => each.ttft !== undefined && each.ttft !== null).reverse();
  const firsts = answered.map((each) => [each.ended, each.ttft]);
  const gaps = answered.filter((each) => each.rate).map((each) => [each.ended, 1 / each.rate]);
  const series = [[history.tokens], [history.running, history.waiting], [firsts], [gaps]];
  parts.plots.forEach((plot, at) => plot.show(now.now, series[at]));
  parts.running.show(now.running, (each) => each.request_id);
  parts.batches.show(now.batches, (each) => each.id);
  parts.models.show(now.models, (each) => each.id);
  parts.caches.show(now.models.filter((each) => each.cache), (each) => each.id);
  parts.ended.show(now.ended, (each) => `${each.request_id} ${each.ended}`);
}

function note(now) {
  for (const { at, tokens, running, waiting } of now.history) {
    keep("tokens", at, tokens);
    keep("running", at, running);
    keep("waiting", at, waiting);
  }
  const sum = (name) => now.models.reduce((total, each) => total + each[name], 0);
  if (last) {
    const passed = now.now - last.now;
    if (passed > 0) keep("tokens", now.now, Math.max(0, now.written - last.written) / passed);
  }
  keep("running", now.now, sum("running"));
  keep("waiting", now.now, sum("waiting"));
  last = now;
}

function keep(name, at, value) {
  history[name].push([at, value]);
  if (history[name].length > KEPT) history[name].shift();
}

function append(lines) {
  if (!lines.length) return;
  line = lines.at(-1).number;
  const { log } = parts;
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(...lines.map((each) => el("span", { class: views.severity(each.text) }, `${each.text}\n`)));
  while (log.children.length > KEPT) log.firstChild.remove();
  if (follows) log.scrollTop = log.scrollHeight;
}

async function act(path, body) {
  try {
    await call(path, { method: "POST", body });
  } catch (error) {
    toast(error.message);
  }
  again(0);
}

function cancelButton(item) {
  return el("button", { type: "button", onclick: () =>
    act(`v1/requests/${encodeURIComponent(item().request_id)}/cancel`) }, "Cancel");
}

function loadButton(item) {
  return el("button", { type: "button", onclick: ({ target }) => {
    target.disabled = true;
    act(`v1/models/${item().state === "loaded" ? "unload" : "load"}`, { model: item().id });
    again(200);
  } }, "Load");
}

function setLoad(button, { state, fixed }) {
  const words = state === "loaded" ? "Unload" : "Load";
  if (button.textContent !== words) button.textContent = words;
  button.hidden = fixed;
  button.disabled = state === "loading" || state === "unloading";
}

function idButton(item) {
  const button = el("button", { type: "button", class: "quiet mono clip", title: "Copy the id", onclick: () =>
    copy(item().request_id, button) });
  return button;
}

function setId(button, { request_id: id }) {
  if (button.textContent !== id) button.textContent = id;
}

