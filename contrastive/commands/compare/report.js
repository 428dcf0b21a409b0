"use strict";
const figures = JSON.parse(document.getElementById("data").textContent);
const plots = [...document.querySelectorAll(".plot")];

/** A layout in the colours that CSS has now (light, dark or print), on every axis. */
function themed(layout) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const out = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false };
  out.font = { ...layout.font, color: colour("--text"), size: 12, family: getComputedStyle(document.body).fontFamily };
  for (const axis of new Set(["xaxis", "yaxis", ...Object.keys(layout).filter((key) => /^[xy]axis/.test(key))])) {
    out[axis] = { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--soft"), ...layout[axis] };
    out[axis].zeroline = Boolean(layout[axis] && layout[axis].zeroline);
  }
  return out;
}

function draw() {
  for (const plot of plots) {
    const { data, layout } = figures[Number(plot.dataset.plot)];
    const size = { ...layout, width: plot.clientWidth, height: layout.height || 340 };
    Plotly.react(plot, data, themed(size), { displayModeBar: false });
  }
}

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

for (const button of document.querySelectorAll(".sortable th button")) {
  button.addEventListener("click", () => sort(button.parentNode));
}
let waiting = 0;
const soon = () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(draw); };
addEventListener("resize", soon);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
matchMedia("print").addEventListener("change", draw);
addEventListener("beforeprint", draw);
addEventListener("afterprint", draw);
draw();
document.documentElement.dataset.drawn = String(plots.length);
