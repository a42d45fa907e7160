"use strict";
// Draws the charts. Drag to zoom into a range; "whole" goes back.
const SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes, parent, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    node.setAttribute(name, value);
  }
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

function ticks(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= raw);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) {
    found.push(Number((i * step).toPrecision(10)));
  }
  return found;
}

function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (!(high > low)) {
    low -= Math.abs(low) * 0.1;  // nothing but zeros: from 0 to 1
    high += Math.abs(high) * 0.1 || 1;
  }
  return [low, high];
}

function padded([low, high]) {
  return [low - 0.03 * (high - low), high + 0.03 * (high - low)];
}

function start(figure) {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const svg = make("svg", { role: "img" }, figure);
  const legend = document.createElement("div");
  legend.className = "legend";
  const button = document.createElement("button");
  button.textContent = "whole";
  button.hidden = true;
  figure.append(legend, button);
  const whole = extent(data.series.flatMap((s) => s.x));
  let range = whole;
  let plot = null;

  function say(at) {
    legend.replaceChildren();
    data.series.forEach((s, i) => {
      const entry = document.createElement("span");
      const colour = document.createElement("i");
      colour.style.background = `var(--c${i % 6})`;
      let text = s.name;
      if (at !== undefined) {
        let nearest = 0;
        s.x.forEach((x, j) => {
          if (Math.abs(x - at) < Math.abs(s.x[nearest] - at)) nearest = j;
        });
        text += ` ${s.y[nearest].toPrecision(4)} (${s.x[nearest].toPrecision(4)})`;
      }
      entry.append(colour, text);
      legend.append(entry);
    });
  }

  function draw() {
    svg.replaceChildren();
    const width = Math.max(svg.clientWidth, 260);
    const height = 240;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    const seen = data.series.flatMap((s) =>
      s.y.filter((_, i) => s.x[i] >= range[0] && s.x[i] <= range[1]));
    const all = data.series.flatMap((s) => s.y);
    const [low, high] = padded(extent(seen.length ? seen : all));
    plot = { left: 52, right: width - 8, top: 8, bottom: height - 34 };
    const px = (x) => plot.left
      + (x - range[0]) / (range[1] - range[0]) * (plot.right - plot.left);
    const py = (y) => plot.bottom
      - (y - low) / (high - low) * (plot.bottom - plot.top);
    for (const x of ticks(range[0], range[1], width / 90)) {
      make("line", { x1: px(x), x2: px(x), y1: plot.top, y2: plot.bottom, class: "axis" }, svg);
      make("text", { x: px(x), y: plot.bottom + 15, "text-anchor": "middle" }, svg, x);
    }
    for (const y of ticks(low, high, 5)) {
      make("line", { x1: plot.left, x2: plot.right, y1: py(y), y2: py(y), class: "axis" }, svg);
      make("text", { x: plot.left - 5, y: py(y) + 4, "text-anchor": "end" }, svg, y);
    }
    make("text", { x: plot.right, y: height - 4, "text-anchor": "end" }, svg, data.x);
    const clip = `clip${[...document.querySelectorAll(".chart")].indexOf(figure)}`;
    make("rect", {
      x: plot.left, y: plot.top, width: plot.right - plot.left,
      height: plot.bottom - plot.top,
    }, make("clipPath", { id: clip }, svg));
    data.series.forEach((s, i) => {
      const points = s.x.map((x, j) => `${px(x).toFixed(1)},${py(s.y[j]).toFixed(1)}`);
      const one = points.length === 1 ? "h3" : "";
      make("path", {
        d: `M${points.join("L")}${one}`, "clip-path": `url(#${clip})`,
        style: `stroke: var(--c${i % 6})`,
      }, svg);
    });
    say();
  }

  function where(event) {
    const box = svg.getBoundingClientRect();
    const part = (event.clientX - box.left - plot.left) / (plot.right - plot.left);
    return range[0] + Math.min(Math.max(part, 0), 1) * (range[1] - range[0]);
  }

  let from = null;
  let band = null;
  svg.addEventListener("pointerdown", (event) => {
    from = { x: where(event), pixel: event.clientX };
    svg.setPointerCapture(event.pointerId);
    band = make("rect", { y: plot.top, height: plot.bottom - plot.top, class: "band" }, svg);
  });
  svg.addEventListener("pointermove", (event) => {
    say(where(event));
    if (!from) return;
    const box = svg.getBoundingClientRect();
    band.setAttribute("x", Math.min(event.clientX, from.pixel) - box.left);
    band.setAttribute("width", Math.abs(event.clientX - from.pixel));
  });
  svg.addEventListener("pointercancel", () => { from = null; draw(); });
  svg.addEventListener("pointerleave", () => { if (!from) say(); });
  svg.addEventListener("pointerup", (event) => {
    if (from && Math.abs(event.clientX - from.pixel) > 8) {
      range = [from.x, where(event)].sort((a, b) => a - b);
      button.hidden = false;
    }
    from = null;
    draw();
  });
  button.addEventListener("click", () => {
    range = whole;
    button.hidden = true;
    draw();
  });
  new ResizeObserver(draw).observe(figure);
  draw();
}

document.querySelectorAll(".chart").forEach(start);
