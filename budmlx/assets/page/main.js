// The beginning: what is where, which view is shown, the keys of the whole page.

import * as composer from "./composer.js";
import { byId, copy, toast } from "./dom.js";
import * as settings from "./settings.js";
import * as sidebar from "./sidebar.js";
import { keep, listen, loadModels, recall, state } from "./state.js";
import { lasts } from "./store.js";
import { draw } from "./thread.js";
import { path } from "./tree.js";
import * as watch from "./watch.js";

function route() {
  const watching = location.hash === "#/watch";
  byId("watch").hidden = !watching;
  byId("chat").hidden = watching;
  byId(watching ? "to-watch" : "to-chat").setAttribute("aria-current", "page");
  byId(watching ? "to-chat" : "to-watch").removeAttribute("aria-current");
  byId("side").classList.remove("open");
  document.title = watching ? "Watch · budmlx" : "budmlx";
  watch.show(watching);
}

function title() {
  byId("title").textContent = state.tree.title || "New chat";
  const last = path(state.tree).at(-1);
  const done = last?.role === "assistant" && !last.writing;
  // Told once, when a reply is complete: not each token.
  if (done && title.told !== last.id && title.writing) byId("live").textContent = "The reply is complete.";
  if (done) title.told = last.id;
  title.writing = Boolean(last?.writing);
}

function pressed(event) {
  const typing = event.target.matches("input, textarea, select");
  const dialog = document.querySelector("dialog[open]");
  if (dialog) return;
  const command = (event.ctrlKey || event.metaKey) && event.shiftKey;
  if (event.key === "Escape") {
    if (state.controller) composer.stop();
    else byId("side").classList.remove("open");
  } else if (command && event.code === "KeyO") {
    event.preventDefault();
    location.hash = "#/chat";
    sidebar.fresh();
  } else if (command && event.code === "Semicolon") {
    event.preventDefault();
    const last = path(state.tree).findLast((message) => message.role === "assistant");
    if (last) copy(last.content, byId("title")).then(() => toast("The last reply is copied."));
  } else if (!typing && !event.ctrlKey && !event.metaKey && event.key === "/") {
    event.preventDefault();
    byId("say").focus();
  } else if (!typing && event.key === "?") {
    sidebar.help();
  }
}

async function begin() {
  for (const part of [composer, settings, sidebar, watch]) part.setUp();
  listen(draw);
  listen(title);
  window.addEventListener("hashchange", route);
  document.addEventListener("keydown", pressed);
  window.addEventListener("pagehide", () => keep());
  route();
  draw();
  if (matchMedia("(min-width: 48rem)").matches) byId("say").focus();
  if (!(await lasts())) toast("This browser keeps no conversations when the page is closed.");
  await recall();
  await models();
}

/** Fetches the list of models; while the server loads its model, or restarts, once more. */
async function models() {
  try {
    await loadModels();
  } catch (error) {
    toast(error.message);
    if (error.status === 0 || error.status === 503) setTimeout(models, 2000);
  }
}

begin();
