// Elements, made of names and text. Nothing here or elsewhere takes HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element. Attributes that begin with `on` are listeners; false and null leave one out. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for a drawing. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

const PATHS = {
  send: "M12 19V5M5 12l7-7 7 7",
  stop: "M7 7h10v10H7z",
  plus: "M12 5v14M5 12h14",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M9 9h.01",
  menu: "M4 7h16M4 12h16M4 17h16",
  close: "M6 6l12 12M18 6L6 18",
  sliders: "M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  edit: "M4 20h4L19 9l-4-4L4 16z",
  again: "M20 12a8 8 0 1 1-2.3-5.6M20 4v5h-5",
  left: "M15 6l-6 6 6 6",
  right: "M9 6l6 6-6 6",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
};

/** A line drawing in the colour of the text beside it. */
export function icon(name) {
  const path = svg("path", { d: PATHS[name] });
  return svg("svg", { viewBox: "0 0 24 24", class: "drawn", "aria-hidden": "true" }, path);
}

/** A button with a drawing; what it does is said for those who do not see it. */
export function iconButton(name, label, onclick) {
  return el("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick }, icon(name));
}

/** Says something for a few seconds. */
export function toast(text) {
  const box = byId("toast");
  box.textContent = text;
  box.hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => (box.hidden = true), 6000);
}

/** A modal dialog that is removed when it closes. Resolves with the value of the button. */
export function ask(title, content, buttons) {
  const heading = el("h2", {}, title);
  // Only one of them submits, so that it is the one which Enter presses.
  const foot = el("div", { class: "actions" }, buttons.map(([value, label, main]) => (main
    ? el("button", { value, class: "main" }, label)
    : el("button", { type: "button", onclick: () => dialog.close(value) }, label))));
  const form = el("form", { method: "dialog" }, heading, content, foot);
  const dialog = el("dialog", { "aria-label": title }, form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
  });
}

/** A label above a field, with a hint below. */
export function field(label, input, hint = "") {
  return el("label", { class: "field" }, el("span", {}, label), input, hint && el("small", {}, hint));
}

export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyByHand(text); // Without TLS, pages of other machines have no clipboard.
  }
  button.classList.add("done");
  setTimeout(() => button.classList.remove("done"), 1500);
}

function copyByHand(text) {
  const area = el("textarea", { value: text, class: "hidden" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
