// Where a message is written: text, pictures by paste, drop or choice, keys.

import { byId, el, icon, iconButton, toast } from "./dom.js";
import { listen, state } from "./state.js";
import { editLast, say } from "./thread.js";

const MOST_PIXELS = 2048;
const area = byId("say");
const list = byId("pictures");
let pictures = [];

export function setUp() {
  byId("attach").append(icon("picture"));
  byId("send").append(icon("send"));
  byId("stop").append(icon("stop"));
  byId("composer").addEventListener("submit", submit);
  byId("stop").addEventListener("click", stop);
  byId("attach").addEventListener("click", () => byId("files").click());
  byId("files").addEventListener("change", ({ target }) => {
    take(target.files);
    target.value = "";
  });
  area.addEventListener("input", grow);
  area.addEventListener("keydown", pressed);
  area.addEventListener("paste", (event) => take(event.clipboardData.files, event));
  const chat = byId("chat");
  chat.addEventListener("dragover", (event) => {
    event.preventDefault();
    chat.classList.add("over");
  });
  chat.addEventListener("dragleave", () => chat.classList.remove("over"));
  chat.addEventListener("drop", (event) => {
    event.preventDefault();
    chat.classList.remove("over");
    take(event.dataTransfer.files);
  });
  listen(buttons);
}

function buttons() {
  const busy = Boolean(state.controller);
  if (byId("send").hidden === busy) return;
  const focused = document.activeElement === byId("stop");
  byId("send").hidden = busy;
  byId("stop").hidden = !busy;
  if (focused) area.focus();
}

export function stop() {
  state.controller?.abort();
}

function grow() {
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight, 240)}px`;
}

function pressed(event) {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    submit(event);
  }
  if (event.key === "ArrowUp" && !area.value) {
    event.preventDefault();
    editLast();
  }
}

function submit(event) {
  event.preventDefault();
  const text = area.value;
  if (state.controller || (!text.trim() && !pictures.length)) return;
  const given = pictures;
  area.value = "";
  pictures = [];
  grow();
  draw();
  say(text, given);
}

async function take(files, event) {
  const images = [...files].filter((file) => file.type.startsWith("image/"));
  if (images.length) event?.preventDefault();
  else if (files.length) toast("Only pictures can be added.");
  for (const file of images) {
    try {
      pictures.push(await dataUrl(file));
    } catch {
      toast(`${file.name || "The picture"} cannot be read.`);
    }
  }
  draw();
}

/** A picture as a PNG or JPEG that is not larger than models look at. */
async function dataUrl(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, MOST_PIXELS / Math.max(bitmap.width, bitmap.height));
  const canvas = el("canvas", {
    width: Math.max(1, Math.round(bitmap.width * scale)), height: Math.max(1, Math.round(bitmap.height * scale)),
  });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return file.type === "image/jpeg" ? canvas.toDataURL("image/jpeg", 0.9) : canvas.toDataURL("image/png");
}

function draw() {
  list.hidden = !pictures.length;
  list.replaceChildren(...pictures.map((url, at) => el("li", {}, el("img", { src: url, alt: `Picture ${at + 1}` }),
    iconButton("close", `Remove picture ${at + 1}`, () => {
      pictures.splice(at, 1);
      draw();
      area.focus();
    }))));
}
