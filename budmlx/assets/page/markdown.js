// Markdown to elements. Text becomes text nodes and nothing else; addresses are checked.

import { blocks } from "./blocks.js";
import { copy, el, iconButton } from "./dom.js";
import { inline } from "./inline.js";

/** Shows a text in a box. What did not change since the last call stays, selected or scrolled. */
export function show(box, text) {
  const found = blocks(text);
  // The children with their blocks: to ask the box for one of many takes long.
  const shown = (box.shown ??= []);
  found.forEach((block, at) => {
    const there = shown[at];
    if (there?.block.source === block.source && there.block.kind === block.kind) return;
    const node = element(block);
    if (there) there.node.replaceWith(node);
    else box.append(node);
    shown[at] = { block, node };
  });
  for (const { node } of shown.splice(found.length)) node.remove();
}

function element(block) {
  switch (block.kind) {
    case "code":
      return code(block);
    case "heading":
      return el(`h${Math.min(block.level + 1, 6)}`, {}, inline(block.text));
    case "rule":
      return el("hr");
    case "quote":
      return el("blockquote", {}, block.blocks.map(element));
    case "list":
      return list(block);
    case "table":
      return table(block);
    default:
      return el("p", {}, inline(block.text));
  }
}

function code({ text, language }) {
  const label = language || "text";
  const button = iconButton("copy", "Copy the code", () => copy(text, button));
  const pre = el("pre", { tabindex: "0", "aria-label": `Code, ${label}` }, el("code", {}, text));
  return el("figure", { class: "code" }, el("figcaption", {}, label, button), pre);
}

function list({ ordered, start, items, loose }) {
  const made = items.map((item) => {
    const box = item.checked === null ? null
      : el("input", { type: "checkbox", disabled: true, checked: item.checked, "aria-label": "Done" });
    const inner = item.blocks.map((block) =>
      block.kind === "paragraph" && !loose ? inline(block.text) : element(block));
    return el("li", {}, box, inner.flat());
  });
  return el(ordered ? "ol" : "ul", { start: ordered && start !== 1 ? start : null }, made);
}

function table({ head, align, rows }) {
  const cells = (tag, row) => head.map((_, index) =>
    el(tag, { class: align[index] || null }, inline(row[index] ?? "")));
  const body = rows.map((row) => el("tr", {}, cells("td", row)));
  const whole = el("table", {}, el("thead", {}, el("tr", {}, cells("th", head))), el("tbody", {}, body));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" }, whole);
}
