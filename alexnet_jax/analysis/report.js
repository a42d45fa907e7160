"use strict";
// Draws the charts. Drag over one to zoom in; its button resets the zoom.
const SVG = "http://www.w3.org/2000/svg";

function addElement(tag, attributes, parent, text) {
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
    low -= Math.abs(low) * 0.1;  // only zeros: 0 to 1
    high += Math.abs(high) * 0.1 || 1;
  }
  return [low, high];
}

function padded([low, high]) {
  return [low - 0.03 * (high - low), high + 0.03 * (high - low)];
}

const digits = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

function format(value, unit) {
  if (unit === "%") return `${value.toFixed(1)}%`;
  return digits.format(value);
}

function startChart(figure) {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const svg = addElement("svg", { role: "img", "aria-label": data.title }, figure);
  const legend = document.createElement("div");
  legend.className = "legend";
  const button = document.createElement("button");
  button.textContent = "Reset zoom";
  button.hidden = true;
  figure.append(legend, button);
  const fullRange = extent(data.series.flatMap((s) => s.x));
  let range = fullRange;
  let plot = null;

  function updateLegend(at) {
    legend.replaceChildren();
    data.series.forEach((s) => {
      const entry = document.createElement("span");
      const colour = document.createElement("i");
      colour.style.borderTop = `3px ${s.dashed ? "dotted" : "solid"} ${s.colour}`;
      let text = s.name;
      if (at !== undefined) {
        let nearest = 0;
        s.x.forEach((x, j) => {
          if (Math.abs(x - at) < Math.abs(s.x[nearest] - at)) nearest = j;
        });
        const y = format(s.y[nearest], data.unit);
        text += ` ${y} (${data.x} ${digits.format(s.x[nearest])})`;
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
    const visible = data.series.flatMap((s) =>
      s.y.filter((_, i) => s.x[i] >= range[0] && s.x[i] <= range[1]));
    const all = data.series.flatMap((s) => s.y);
    const [low, high] = padded(extent(visible.length ? visible : all));
    plot = { left: 52, right: width - 8, top: 8, bottom: height - 34 };
    const px = (x) => plot.left
      + (x - range[0]) / (range[1] - range[0]) * (plot.right - plot.left);
    const py = (y) => plot.bottom
      - (y - low) / (high - low) * (plot.bottom - plot.top);
    for (const x of ticks(range[0], range[1], width / 90)) {
      addElement("line", { x1: px(x), x2: px(x), y1: plot.top, y2: plot.bottom, class: "axis" }, svg);
      addElement("text", { x: px(x), y: plot.bottom + 15, "text-anchor": "middle" }, svg, digits.format(x));
    }
    for (const y of ticks(low, high, 5)) {
      addElement("line", { x1: plot.left, x2: plot.right, y1: py(y), y2: py(y), class: "axis" }, svg);
      addElement("text", { x: plot.left - 5, y: py(y) + 4, "text-anchor": "end" }, svg, digits.format(y) + data.unit);
    }
    addElement("text", { x: plot.right, y: height - 4, "text-anchor": "end" }, svg, data.x);
    const clip = `clip${[...document.querySelectorAll(".chart")].indexOf(figure)}`;
    addElement("rect", {
      x: plot.left, y: plot.top, width: plot.right - plot.left,
      height: plot.bottom - plot.top,
    }, addElement("clipPath", { id: clip }, svg));
    data.series.forEach((s) => {
      const points = s.x.map((x, j) => `${px(x).toFixed(1)},${py(s.y[j]).toFixed(1)}`);
      const one = points.length === 1 ? "h3" : "";
      addElement("path", {
        d: `M${points.join("L")}${one}`, "clip-path": `url(#${clip})`,
        style: `stroke: ${s.colour}`, "stroke-dasharray": s.dashed ? "4 3" : "none",
      }, svg);
    });
    updateLegend();
  }

  function xAt(event) {
    const box = svg.getBoundingClientRect();
    const part = (event.clientX - box.left - plot.left) / (plot.right - plot.left);
    return range[0] + Math.min(Math.max(part, 0), 1) * (range[1] - range[0]);
  }

  let dragStart = null;
  let band = null;
  svg.addEventListener("pointerdown", (event) => {
    dragStart = { x: xAt(event), pixel: event.clientX };
    svg.setPointerCapture(event.pointerId);
    band = addElement("rect", { y: plot.top, height: plot.bottom - plot.top, class: "band" }, svg);
  });
  svg.addEventListener("pointermove", (event) => {
    updateLegend(xAt(event));
    if (!dragStart) return;
    const box = svg.getBoundingClientRect();
    band.setAttribute("x", Math.min(event.clientX, dragStart.pixel) - box.left);
    band.setAttribute("width", Math.abs(event.clientX - dragStart.pixel));
  });
  svg.addEventListener("pointercancel", () => { dragStart = null; draw(); });
  svg.addEventListener("pointerleave", () => { if (!dragStart) updateLegend(); });
  svg.addEventListener("pointerup", (event) => {
    if (dragStart && Math.abs(event.clientX - dragStart.pixel) > 8) {
      range = [dragStart.x, xAt(event)].sort((a, b) => a - b);
      button.hidden = false;
    }
    dragStart = null;
    draw();
  });
  button.addEventListener("click", () => {
    range = fullRange;
    button.hidden = true;
    draw();
  });
  new ResizeObserver(draw).observe(figure);
  draw();
}

document.querySelectorAll(".chart").forEach(startChart);
