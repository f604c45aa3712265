// One message of the thread, drawn anew where it changed.

import { copy, el, iconButton } from "./dom.js";
import { brief, count, details } from "./explain.js";
import { show } from "./markdown.js";

/** A view of a message. `acts` are what its buttons do. */
export class MessageView {
  constructor(message, acts) {
    this.message = message;
    this.acts = acts;
    this.body = el("div", { class: "body" });
    this.thought = el("div", { class: "prose" });
    this.prose = el("div", { class: "prose" });
    this.after = el("div", { class: "after" });
    this.foot = el("footer", {});
    const who = { user: "You", assistant: "Model", tool: "Tool" }[message.role];
    this.node = el("article", { class: `message ${message.role}`, "aria-label": who, "data-id": message.id },
      this.body, this.foot);
    this.body.append(...this.head());
  }

  head() {
    const { role, pictures = [] } = this.message;
    const images = pictures.map((url, number) => el("img", { src: url, alt: `Picture ${number + 1}` }));
    const strip = images.length ? [el("div", { class: "strip" }, images)] : [];
    if (role === "user") return [...strip, el("p", { class: "said" }, this.message.content)];
    if (role === "tool") return [el("pre", { tabindex: "0", "aria-label": "Result" }, this.message.content)];
    this.summary = el("summary", {}, "Reasoning");
    this.fold = el("details", { class: "thought", hidden: true }, this.summary, this.thought);
    return [this.fold, this.prose, this.after];
  }

  update(branch) {
    const message = this.message;
    const seen = [message.content.length, message.reasoning?.length, message.writing, message.stopped,
      message.error, message.prefilled?.[0], message.calls?.map((each) => each.arguments.length).join(),
      branch.number, branch.total, branch.busy, branch.last].join("|");
    if (seen === this.seen) return;
    this.seen = seen;
    if (message.role === "assistant") this.reply();
    if (!this.node.contains(document.activeElement) || !message.writing) this.footer(branch);
  }

  reply() {
    const { content, reasoning, writing } = this.message;
    if (reasoning) {
      this.fold.hidden = false;
      this.summary.textContent = writing && !content ? "Reasoning…" : "Reasoning";
      show(this.thought, reasoning);
    }
    show(this.prose, content);
    this.node.classList.toggle("writing", Boolean(writing));
    this.node.setAttribute("aria-busy", String(Boolean(writing)));
    this.after.replaceChildren(...this.rest());
  }

  rest() {
    const { content, reasoning, calls = [], writing, prefilled, error, stopped, warnings = [] } = this.message;
    const made = calls.map((call) => this.call(call));
    if (writing && prefilled) {
      const [done, total] = prefilled;
      made.push(el("p", { class: "note" }, `Reading the prompt: ${count(done)} of ${count(total)} tokens`),
        el("progress", { max: total, value: done, "aria-label": "Reading the prompt" }));
    } else if (writing && !content && !reasoning && !calls.length) {
      made.push(el("p", { class: "note waiting" }, "Waiting for the first token"));
    }
    if (error) made.push(el("p", { class: "error", role: "alert" }, error));
    if (stopped) made.push(el("p", { class: "note" }, "Stopped."));
    for (const warning of warnings) made.push(el("p", { class: "warning" }, warning));
    return made;
  }

  call({ id, name, arguments: text }) {
    const open = this.opened?.has(id);
    const fold = el("details", { class: "call", open, ontoggle: () => {
      this.opened ??= new Set();
      if (fold.open) this.opened.add(id);
      else this.opened.delete(id);
    } }, el("summary", {}, "Calls ", el("code", {}, name)), el("pre", { tabindex: "0", "aria-label": "Arguments" }, pretty(text)));
    const answers = !this.message.writing && this.acts.result;
    const button = answers && !this.acts.answered(id) &&
      el("button", { type: "button", class: "small", onclick: () => this.acts.result(this.message, id) }, "Give its result");
    return el("div", {}, fold, button || null);
  }

  footer(branch) {
    const { message, acts } = this;
    const parts = [];
    if (branch.total > 1) parts.push(this.branches(branch));
    if (!message.writing) {
      const copied = iconButton("copy", "Copy the message", () => copy(message.content, copied));
      parts.push(copied);
      if (message.role === "user" && !branch.busy) parts.push(iconButton("edit", "Edit", () => acts.edit(this)));
      if (message.role === "assistant" && !branch.busy) {
        parts.push(iconButton("again", "Regenerate", () => acts.again(message)));
      }
      if (message.stats?.usage) parts.push(this.numbers());
    }
    this.foot.replaceChildren(...parts);
  }

  branches({ number, total, busy }) {
    const move = (step, name, label) => {
      const button = iconButton(name, label, () => this.acts.turn(this.message, step));
      button.disabled = busy || number + step < 1 || number + step > total;
      return button;
    };
    return el("span", { class: "branches" }, move(-1, "left", "Previous version"),
      el("span", { "aria-label": `Version ${number} of ${total}` }, `${number}/${total}`), move(1, "right", "Next version"));
  }

  numbers() {
    const { stats } = this.message;
    const rows = details(stats).map(([name, words]) => [el("dt", {}, name), el("dd", {}, words)]);
    return el("details", { class: "numbers" }, el("summary", {}, brief(stats)), el("dl", {}, rows.flat()));
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** A form in place of what somebody said. Resolves with the new text, or null. */
export function editor(view) {
  const area = el("textarea", { rows: "3", "aria-label": "Edit the message", value: view.message.content });
  return new Promise((resolve) => {
    const end = (value) => {
      form.replaceWith(view.body, view.foot);
      resolve(value);
    };
    const form = el("form", { class: "editor", onsubmit: (event) => {
      event.preventDefault();
      end(area.value);
    }, onkeydown: (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        end(null);
      }
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        end(area.value);
      }
    } }, area, el("div", { class: "actions" },
      el("button", { type: "button", onclick: () => end(null) }, "Cancel"), el("button", { class: "main" }, "Send")));
    view.foot.remove();
    view.body.replaceWith(form);
    area.style.height = `${Math.min(area.scrollHeight, 400)}px`;
    area.focus();
  });
}

