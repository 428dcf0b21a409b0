"use strict";

/** Sort a table by one column, and in reverse the second time: numbers by value, texts by letters. */
function sort(heading) {
  const row = heading.parentNode;
  const table = heading.closest("table");
  const column = [...row.children].indexOf(heading);
  const down = heading.getAttribute("aria-sort") !== "descending";
  const value = (line) => line.children[column].dataset.value;
  const order = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === ""); // unknown values come last in both orders
    const numbers = !isNaN(Number(x)) && !isNaN(Number(y));
    const up = numbers ? Number(x) - Number(y) : x.localeCompare(y);
    return down ? -up : up;
  };
  for (const other of row.children) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
}

/** Whether the image at an index has a text in its name or its class, or is of the class that is pressed. */
function matches(data, index, text, pressed) {
  const label = data.labels[index];
  if (pressed !== null && label !== pressed) return false;
  const name = data.names[index].toLowerCase();
  return name.includes(text) || (label >= 0 && data.classes[label].toLowerCase().includes(text));
}

/** A map of images: one per canvas. */
class FeatureMap {
  constructor(figure) {
    this.data = JSON.parse(document.getElementById(figure.dataset.source).textContent);
    this.canvas = figure.querySelector("canvas");
    this.tip = figure.querySelector(".tip");
    this.input = figure.querySelector("input");
    this.output = figure.querySelector("output");
    this.buttons = [...figure.querySelectorAll("[data-class]")];
    this.pressed = null;
    this.hits = null;
    this.input.addEventListener("input", () => this.search());
    for (const button of this.buttons) button.addEventListener("click", () => this.press(button));
    for (const kind of ["pointermove", "pointerdown"]) this.canvas.addEventListener(kind, (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => { this.tip.hidden = true; });
  }

  /** Positions in CSS pixels: the same scale for both axes, in the middle of the canvas. */
  lay() {
    const [width, height, edge] = [this.canvas.clientWidth, this.canvas.clientHeight, 10];
    const [right, top] = [Math.max(1, ...this.data.x), Math.max(1, ...this.data.y)];
    const scale = Math.min((width - 2 * edge) / right, (height - 2 * edge) / top);
    const [left, bottom] = [(width - scale * right) / 2, (height + scale * top) / 2];
    this.places = this.data.x.map((x, index) => [left + scale * x, bottom - scale * this.data.y[index]]);
  }

  draw() {
    this.lay();
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.canvas.clientWidth * ratio);
    this.canvas.height = Math.round(this.canvas.clientHeight * ratio);
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const radius = this.places.length > 1500 ? 2.2 : 3.5;
    const faint = [], strong = [];
    this.places.forEach((_, index) => (this.hits && !this.hits.has(index) ? faint : strong).push(index));
    for (const [group, opacity] of [[faint, 0.1], [strong, this.hits ? 1 : 0.75]]) {
      pen.globalAlpha = opacity;
      for (const index of group) {
        const [x, y] = this.places[index];
        pen.fillStyle = this.data.colours[this.data.labels[index]] || "#8a8a8a";
        pen.beginPath();
        pen.arc(x, y, radius, 0, 7);
        pen.fill();
      }
    }
  }

  press(button) {
    const label = Number(button.dataset.class);
    this.pressed = this.pressed === label ? null : label;
    for (const each of this.buttons) each.setAttribute("aria-pressed", String(Number(each.dataset.class) === this.pressed));
    this.search();
  }

  search() {
    const text = this.input.value.trim().toLowerCase();
    const all = this.data.names.map((_, index) => index);
    const hits = all.filter((index) => matches(this.data, index, text, this.pressed));
    this.hits = text === "" && this.pressed === null ? null : new Set(hits);
    const first = hits.slice(0, 3).map((index) => this.data.names[index]).join(", ");
    const more = hits.length > 3 ? ", ..." : "";
    this.output.textContent = this.hits ? `${hits.length} of ${all.length}${hits.length ? `: ${first}${more}` : ""}` : "";
    this.draw();
  }

  /** The index of the image nearest to a position; -1 if none is near. */
  nearest(x, y) {
    let [best, distance] = [-1, 15 ** 2];
    this.places.forEach(([left, top], index) => {
      const now = (left - x) ** 2 + (top - y) ** 2;
      if (now < distance && (!this.hits || this.hits.has(index))) [best, distance] = [index, now];
    });
    return best;
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const index = this.nearest(event.clientX - box.left, event.clientY - box.top);
    this.tip.hidden = index < 0;
    if (index < 0) return;
    const { data, tip } = this;
    const [image, words] = tip.children;
    const number = data.thumbnails[index];
    const cell = { "--x": number % data.columns, "--y": Math.floor(number / data.columns) };
    for (const [name, value] of Object.entries(cell)) image.style.setProperty(name, value);
    const label = data.labels[index];
    words.textContent = label < 0 ? data.names[index] : `${data.classes[label]}\n${data.names[index]}`;
    const [x, y] = this.places[index];
    tip.style.left = `${Math.min(x + 12, Math.max(0, box.width - tip.offsetWidth))}px`;
    tip.style.top = `${y + 12 + tip.offsetHeight > box.height ? Math.max(0, y - 12 - tip.offsetHeight) : y + 12}px`;
  }
}

const maps = [...document.querySelectorAll(".map")].map((figure) => new FeatureMap(figure));
for (const button of document.querySelectorAll(".sortable th button")) {
  button.addEventListener("click", () => sort(button.parentNode));
}
/** What is drawn again when the window or the theme changes; a page's own script may add to it. */
const drawings = [() => maps.forEach((map) => map.draw())];
const draw = () => drawings.forEach((each) => each());
let waiting = 0;
const soon = () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(draw); };
addEventListener("resize", soon);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
matchMedia("print").addEventListener("change", draw);
addEventListener("beforeprint", draw);
addEventListener("afterprint", draw);
draw();
