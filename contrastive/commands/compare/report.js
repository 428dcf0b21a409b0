"use strict"; // after page.js
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

function drawPlots() {
  for (const plot of plots) {
    const { data, layout } = figures[Number(plot.dataset.plot)];
    const size = { ...layout, width: plot.clientWidth, height: layout.height || 340 };
    Plotly.react(plot, data, themed(size), { displayModeBar: false });
  }
}

drawings.push(drawPlots);
drawPlots();
document.documentElement.dataset.drawn = String(plots.length);
