// A small plot of the last minutes: lines or dots over time, with what they were read to say.

import { el, svg } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 80;

export class Plot {
  /** names: of the series; words: a value as text; dots: values at their own times. */
  constructor(title, names, words, { span = 180, dots = false } = {}) {
    Object.assign(this, { title, names, words, span, dots });
    this.now = el("strong", {});
    this.top = el("span", { class: "top-value" });
    this.marks = names.map((_, at) => (dots ? svg("g", { class: `s${at}` })
      : svg("path", { class: `s${at}`, "vector-effect": "non-scaling-stroke" })));
    this.drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      svg("path", { class: "base", d: `M0 ${HEIGHT - 0.5}H${WIDTH}`, "vector-effect": "non-scaling-stroke" }), this.marks);
    const legend = names.length > 1 && el("span", { class: "legend" }, names.map((name, at) =>
      el("span", { class: `s${at}` }, name)));
    this.node = el("figure", { class: "plot" },
      el("figcaption", {}, el("span", {}, title), this.now), el("div", { class: "drawing" }, this.drawing, this.top), legend || null);
  }

  /** points: for each series, pairs of seconds and a value, in the order of time. */
  show(now, points) {
    const recent = points.map((series) => series.filter(([at]) => at > now - this.span));
    const highest = Math.max(0, ...recent.flat().map(([, value]) => value));
    const scale = highest || 1;
    const place = ([at, value]) => [
      WIDTH * (1 - (now - at) / this.span), HEIGHT - 1 - (value / scale) * (HEIGHT - 8)];
    recent.forEach((series, index) => this.draw(this.marks[index], series.map(place)));
    const last = recent.map((series) => series.at(-1)?.[1]);
    const said = last.map((value) => (value === undefined ? "–" : this.words(value))).join(" / ");
    this.now.textContent = said;
    this.top.textContent = highest ? this.words(highest) : "";
    this.drawing.setAttribute("aria-label",
      `${this.title}: ${this.names.join(", ")}, now ${said}, at most ${this.words(highest)}`);
  }

  draw(mark, places) {
    if (this.dots) {
      // Lines of no length with round ends stay round however the drawing is stretched.
      mark.replaceChildren(...places.map(([x, y]) =>
        svg("path", { d: `M${x.toFixed(1)} ${y.toFixed(1)}h0`, "vector-effect": "non-scaling-stroke" })));
    } else {
      mark.setAttribute("d", places.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join(""));
    }
  }
}
