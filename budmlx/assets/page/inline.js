// Within a line of Markdown: code, emphasis, links.

import { el } from "./dom.js";

const DEEPEST = 8;
const MARKS = [["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];
const SPECIAL = /[\\`*_~[!<\n]|https?:\/\//g;
const WORD = /[\p{L}\p{N}]/u;

/** The nodes of a text. */
export function inline(text, depth = 0) {
  return new Reader(text, depth).read();
}

class Reader {
  constructor(text, depth) {
    this.text = text;
    this.depth = depth;
    this.at = 0;
    this.nodes = [];
    this.plain = "";
    // Marks that close nowhere from here on, so that none is looked for twice.
    this.without = new Set();
  }

  read() {
    if (this.depth > DEEPEST) return [this.text];
    while (this.at < this.text.length) {
      SPECIAL.lastIndex = this.at;
      const next = SPECIAL.exec(this.text)?.index ?? this.text.length;
      this.plain += this.text.slice(this.at, next);
      this.at = next;
      if (next < this.text.length && !this.special()) this.plain += this.text[this.at++];
    }
    this.flush();
    return this.nodes;
  }

  special() {
    const sign = this.text[this.at];
    if (sign === "\\") return this.escaped();
    if (sign === "`") return this.code();
    if (sign === "\n") return this.put(el("br"), this.at + 1);
    if (sign === "[") return this.link(this.at);
    if (sign === "!") return this.text[this.at + 1] === "[" && this.link(this.at + 1);
    if (sign === "<") return this.bracketed();
    if (sign === "h") return this.bare();
    return MARKS.some(([mark, tag]) => this.text.startsWith(mark, this.at) && this.marked(mark, tag));
  }

  put(node, end) {
    this.flush();
    this.nodes.push(node);
    this.at = end;
    return true;
  }

  flush() {
    if (this.plain) this.nodes.push(this.plain);
    this.plain = "";
  }

  find(mark, from) {
    if (this.without.has(mark)) return -1;
    const found = this.text.indexOf(mark, from);
    if (found < 0) this.without.add(mark);
    return found;
  }

  escaped() {
    const next = this.text[this.at + 1];
    if (!next || !/[!-/:-@[-`{-~]/.test(next)) return false;
    this.plain += next;
    this.at += 2;
    return true;
  }

  code() {
    let length = 1;
    while (this.text[this.at + length] === "`") length += 1;
    const mark = "`".repeat(length);
    const end = this.find(mark, this.at + length);
    if (end < 0) {
      this.plain += mark;
      this.at += length;
      return true;
    }
    const inner = this.text.slice(this.at + length, end).replace(/\n/g, " ");
    return this.put(el("code", {}, /^ .*[^ ].* $/.test(inner) ? inner.slice(1, -1) : inner), end + length);
  }

  marked(mark, tag) {
    const begin = this.at + mark.length;
    const inWord = mark[0] === "_" && WORD.test(this.text[this.at - 1] ?? "");
    if (inWord || /\s|^$/.test(this.text[begin] ?? "")) return false;
    let end = this.find(mark, begin + 1);
    // A single mark does not end within a double one.
    while (end > 0 && mark.length === 1 && this.text[end + 1] === mark) end = this.find(mark, end + 2);
    if (end < 0 || /\s/.test(this.text[end - 1])) return false;
    if (mark[0] === "_" && WORD.test(this.text[end + mark.length] ?? "")) return false;
    return this.put(el(tag, {}, inline(this.text.slice(begin, end), this.depth + 1)), end + mark.length);
  }

  link(open) {
    const middle = this.find("](", open);
    if (middle < 0) return false;
    const end = this.find(")", middle);
    if (end < 0) return false;
    const target = this.text.slice(middle + 2, end).trim().split(/\s/, 1)[0].replace(/^<|>$/g, "");
    const url = address(target);
    if (!url) return false;
    const label = this.text.slice(open + 1, middle) || target;
    return this.put(anchor(url, inline(label, this.depth + 1)), end + 1);
  }

  bracketed() {
    const found = /^<(https?:\/\/[^\s<>]{1,2000})>/.exec(this.text.slice(this.at, this.at + 2100));
    const url = found && address(found[1]);
    return url ? this.put(anchor(url, found[1]), this.at + found[0].length) : false;
  }

  bare() {
    const [found] = /^https?:\/\/[^\s<>"`]*/.exec(this.text.slice(this.at, this.at + 2000));
    const target = found.replace(/[.,;:!?*_~)\]}]+$/, "");
    const url = address(target);
    return url ? this.put(anchor(url, target), this.at + target.length) : false;
  }
}

/** An address of the web or of mail; null for anything else. */
function address(target) {
  const url = URL.canParse(target) ? new URL(target) : null;
  return url && ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
}

const anchor = (url, label) =>
  el("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, label);
