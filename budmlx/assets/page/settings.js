// Settings of a conversation: system prompt, sampling, tools. New ones begin with the last choice.

import { ask, byId, el, field, icon } from "./dom.js";
import { changed, keep, listen, model, state } from "./state.js";
import * as store from "./store.js";

const NUMBERS = [
  ["temperature", "Temperature", { min: 0, max: 2, step: 0.05 }],
  ["top_p", "Top p", { min: 0, max: 1, step: 0.01 }],
  ["top_k", "Top k", { min: 0, step: 1 }],
  ["min_p", "Min p", { min: 0, max: 1, step: 0.01 }],
  ["max_tokens", "Most tokens", { min: 1, step: 1 }],
  ["seed", "Seed", { step: 1 }],
  ["presence_penalty", "Presence penalty", { min: -2, max: 2, step: 0.1 }],
  ["repetition_penalty", "Repetition penalty", { min: 0, step: 0.05 }],
];
const EFFORTS = ["", "none", "low", "medium", "high"];

export function setUp() {
  byId("settings").append(icon("sliders"));
  byId("settings").addEventListener("click", edit);
  byId("model").addEventListener("change", ({ target }) => {
    state.tree.settings.model = target.value;
    remember();
  });
  listen(models);
}

let drawn = "";
function models() {
  const names = state.models.map((each) => each.id);
  const chosen = model();
  const now = JSON.stringify([names, chosen, state.models.map((each) => each.state)]);
  if (now === drawn) return;
  drawn = now;
  byId("model").replaceChildren(...state.models.map((each) => {
    const words = each.state === "loaded" ? each.id : `${each.id} (${each.state})`;
    return el("option", { value: each.id, selected: each.id === chosen }, words);
  }));
}

function remember() {
  store.remember("settings", state.tree.settings);
  keep();
  changed();
}

async function edit() {
  const { settings } = state.tree;
  const { parameters } = settings;
  const system = el("textarea", { rows: "4", value: settings.system, id: "system" });
  const numbers = NUMBERS.map(([name, label, limits]) => [name, label,
    el("input", { type: "number", name, inputmode: "decimal", placeholder: "default", ...limits, value: parameters[name] ?? "" })]);
  const effort = el("select", {}, EFFORTS.map((each) =>
    el("option", { value: each, selected: each === (parameters.reasoning_effort ?? "") }, each || "default")));
  const stop = el("input", { type: "text", value: (parameters.stop ?? []).join(" | ") });
  const tools = json(settings.tools, "array");
  const other = json(settings.other, "object");
  const answer = await ask("Settings of this chat", [
    field("System prompt", system),
    el("div", { class: "grid" }, numbers.map(([, label, input]) => field(label, input)), field("Reasoning effort", effort)),
    field("Stop at", stop, "Several texts with | between them."),
    el("details", {}, el("summary", {}, "More"),
      field("Tools", tools, "A JSON array of functions, as the interface takes them."),
      field("Other parameters", other, "A JSON object that is added to each request.")),
  ], [["", "Cancel"], ["use", "Use", true]]);
  if (answer !== "use") return;
  Object.assign(settings, { system: system.value, tools: tools.value, other: other.value });
  settings.parameters = chosen(numbers, effort.value, stop.value);
  remember();
}

function chosen(numbers, effort, stop) {
  const found = {};
  for (const [name, , input] of numbers) if (input.value !== "") found[name] = Number(input.value);
  if (effort) found.reasoning_effort = effort;
  const texts = stop.split(" | ").filter(Boolean);
  if (texts.length) found.stop = texts;
  return found;
}

/** A field for JSON of a kind, which cannot be left while it holds something else. */
function json(text, kind) {
  const area = el("textarea", { rows: "4", class: "mono", spellcheck: "false", value: text });
  area.addEventListener("input", () => area.setCustomValidity(problem(area.value, kind)));
  return area;
}

function problem(text, kind) {
  if (!text.trim()) return "";
  try {
    const value = JSON.parse(text);
    const fits = kind === "array" ? Array.isArray(value) : value && typeof value === "object" && !Array.isArray(value);
    return fits ? "" : `This must be a JSON ${kind}.`;
  } catch (error) {
    return `This is no JSON: ${error.message}`;
  }
}
