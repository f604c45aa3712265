// The blocks of Markdown: paragraphs, code, lists, tables. Each has its source, to compare.

const DEEPEST = 6;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( +|$)/;
const QUOTE = /^ {0,3}> ?/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** The blocks of a text, which may be incomplete. */
export function blocks(text, depth = 0) {
  const lines = text.split(/\r?\n/);
  const found = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const [block, next] = read(lines, at, depth);
    block.source = lines.slice(at, next).join("\n");
    found.push(block);
    at = next;
  }
  return found;
}

function read(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return code(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) return [{ kind: "heading", level: heading[1].length, text: heading[2] }, at + 1];
  if (RULE.test(line)) return [{ kind: "rule" }, at + 1];
  if (depth < DEEPEST && QUOTE.test(line)) return quote(lines, at, depth);
  if (depth < DEEPEST && ITEM.test(line)) return list(lines, at, depth);
  if (line.includes("|") && DIVIDER.test(lines[at + 1] ?? "") && lines[at + 1].includes("-")) {
    const made = table(lines, at);
    if (made) return made;
  }
  return paragraph(lines, at);
}

function code(lines, at, [, mark, language]) {
  const indent = /^ */.exec(lines[at])[0].length;
  const close = new RegExp(`^ {0,3}${mark[0]}{${mark.length},}\\s*$`);
  let end = at + 1;
  while (end < lines.length && !close.test(lines[end])) end += 1;
  const text = lines.slice(at + 1, end).map((line) => dedent(line, indent)).join("\n");
  return [{ kind: "code", text, language }, Math.min(end + 1, lines.length)];
}

function dedent(line, most) {
  let spaces = 0;
  while (spaces < most && line[spaces] === " ") spaces += 1;
  return line.slice(spaces);
}

function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, "")).join("\n");
  return [{ kind: "quote", blocks: blocks(inner, depth + 1) }, end];
}

function list(lines, at, depth) {
  const first = ITEM.exec(lines[at])[2];
  const ordered = /\d/.test(first);
  const made = { kind: "list", ordered, start: parseInt(first, 10), items: [], loose: false };
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (!item || /\d/.test(item[2]) !== ordered || RULE.test(lines[at])) break;
    const [inner, end, blank] = body(lines, at, item);
    const task = /^\[([ xX])\] +/.exec(inner);
    const text = task ? inner.slice(task[0].length) : inner;
    made.items.push({ blocks: blocks(text, depth + 1), checked: task ? task[1] !== " " : null });
    made.loose ||= blank && ITEM.test(lines[end] ?? "");
    at = end;
  }
  return [made, at];
}

/** The text of an item, where the next thing begins, and whether empty lines are before that. */
function body(lines, at, item) {
  const width = item[0].trimEnd().length + 1;
  const inner = [lines[at].slice(item[0].length)];
  let end = at + 1;
  let blank = false;
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    const indent = /^ */.exec(line)[0].length;
    if (!line.trim()) blank = true;
    else if (indent < Math.min(width, 2) && (blank || starts(line))) break;
    else blank = false;
    inner.push(dedent(line, indent < width ? 2 : width));
  }
  return [inner.join("\n"), end, blank];
}

const starts = (line) =>
  FENCE.test(line) || HEADING.test(line) || RULE.test(line) || ITEM.test(line) || QUOTE.test(line);

function cells(line) {
  return line.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function table(lines, at) {
  const head = cells(lines[at]);
  const marks = cells(lines[at + 1]);
  if (head.length !== marks.length) return null;
  const align = marks.map((mark) =>
    mark.endsWith(":") ? (mark.startsWith(":") ? "centre" : "right") : "");
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|") && lines[end].trim()) end += 1;
  return [{ kind: "table", head, align, rows: lines.slice(at + 2, end).map(cells) }, end];
}

function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !starts(lines[end])) end += 1;
  const text = lines.slice(at, end).map((line) => line.trim()).join("\n");
  return [{ kind: "paragraph", text }, end];
}
