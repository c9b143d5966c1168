// One pair of axes as SVG: values under the pointer, and under the arrow keys.

// Colours and shapes are those of bench/style.py; the grey after the last is of what belongs to no series.
const COLOURS = 6;
const SHAPES = [
  (r) => draw("circle", { r }),
  (r) => draw("rect", { x: -r, y: -r, width: 2 * r, height: 2 * r }),
  (r) => draw("path", { d: `M0 ${-1.2 * r}L${1.15 * r} ${0.9 * r}H${-1.15 * r}Z` }),
  (r) => draw("path", { d: `M0 ${-1.35 * r}L${1.35 * r} 0L0 ${1.35 * r}L${-1.35 * r} 0Z` }),
  (r) => draw("path", { d: `M0 ${1.2 * r}L${1.15 * r} ${-0.9 * r}H${-1.15 * r}Z` }),
  (r) => draw("path", { d: `M${-0.4 * r} ${-1.2 * r}h${0.8 * r}v${0.8 * r}h${0.8 * r}v${0.8 * r}h${-0.8 * r}v${0.8 * r}h${-0.8 * r}v${-0.8 * r}h${-0.8 * r}v${-0.8 * r}h${0.8 * r}Z` }),
];
const NEAR = 28;
// Widest a letter of a label is taken to be, in pixels.
const LETTER = 7.1;

function limits(values, log) {
  const usable = values.filter((v) => Number.isFinite(v) && (!log || v > 0));
  let low = Math.min(...usable), high = Math.max(...usable);
  if (!usable.length) return log ? [1, 10] : [0, 1];
  if (log) {
    const room = Math.max((high / low) ** 0.06, 1.06);
    return [low / room, high * room];
  }
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low >= 0 && low < (high - low) * 0.5 ? 0 : low - room, high + room];
}

// At most `most` round numbers within the limits; on a log axis 1, 2 and 5, or decades alone.
function ticksOf([low, high], log, most) {
  const found = [];
  if (log) {
    for (const steps of [[1, 1.5, 2, 3, 4, 5, 6, 8], [1, 2, 5], [1, 3], [1]]) {
      found.length = 0;
      for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
        for (const s of steps) if (s * 10 ** e >= low && s * 10 ** e <= high) found.push(Number(`${s}e${e}`));
      if (found.length <= most) break;
    }
    const every = Math.ceil(found.length / most);
    if (found.length >= 2) return found.filter((_, i) => i % every === 0);
    found.length = 0;
  }
  const rough = (high - low) / most, base = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((s) => s * base).find((s) => s >= rough);
  for (let n = Math.ceil(low / step); n * step <= high; n++) found.push(Number((n * step).toPrecision(12)));
  return found;
}

const placed = ([low, high], log, from, to) => (value) => {
  const share = log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
  return from + share * (to - from);
};

// Pushes labels apart, at least `gap` from the next, between `top` and `bottom`.
function spread(labels, gap, top, bottom) {
  labels.sort((a, b) => a.y - b.y);
  let floor = top;
  for (const label of labels) floor = (label.at = Math.max(label.y, floor)) + gap;
  let ceiling = bottom;
  for (const label of [...labels].reverse()) ceiling = (label.at = Math.min(label.at, ceiling)) - gap;
  return labels;
}

const placeOf = (series, index) => (series.place ?? index) % COLOURS;
const pointsOf = (panel) => panel.series.flatMap((series, index) => series.points.map((point) => ({ series, index: placeOf(series, index), point })));

// The ends of a point's interval; one at or below zero, which a logarithmic axis lacks, ends a decade below the point.
function ends(point, panel) {
  if (point.low === undefined || point.high === undefined) return [];
  const [value, axis] = panel.y.categories ? [point.x, panel.x] : [point.y, panel.y];
  return [axis.log ? Math.max(point.low, value / 10) : point.low, point.high];
}

const endsOf = (panel, fromX) => pointsOf(panel).flatMap(({ point }) => {
  const own = fromX === Boolean(panel.y.categories) ? ends(point, panel) : [];
  return [fromX ? point.x : point.y, ...own];
});

function layout(panel, width) {
  const names = panel.y.categories;
  const longest = names ? Math.max(...names.map((n) => n.length)) : 0;
  const left = names ? Math.min(longest * LETTER + 14, width * 0.45) : 52;
  const labelled = !names && panel.series.length <= 12;
  const label = Math.max(...panel.series.flatMap((s) => textsOf(s).filter(([, , must]) => must).map(([, text]) => text.length)), 3) * LETTER + 14;
  const right = names ? 16 : labelled ? Math.min(label, width * 0.3) : 14;
  const height = names ? names.length * 24 + 64 : Math.max(Math.min(width * 0.62, 380), 250);
  const levels = (panel.levels ?? []).map((level) => level[1]);
  const fits = (panel.fits ?? []).flatMap((fit) => [...(fit.y ?? []), ...(fit.low ?? []), ...(fit.high ?? [])]);
  const xs = [...endsOf(panel, true), ...(names ? levels : [])];
  const ys = [...endsOf(panel, false), ...(names ? [] : [...levels, ...fits])];
  const xLimits = limits(xs, panel.x.log), yLimits = names ? [-0.6, names.length - 0.4] : limits(ys, panel.y.log);
  const box = { left, right: width - right, top: 22, bottom: height - 40 };
  const up = names ? placed(yLimits, false, box.top, box.bottom) : placed(yLimits, panel.y.log, box.bottom, box.top);
  return { box, width, height, labelled, xLimits, yLimits, x: placed(xLimits, panel.x.log, box.left, box.right), y: up };
}

function axes(svg, panel, { box, x, y, xLimits, yLimits }) {
  const names = panel.y.categories;
  for (const tick of ticksOf(xLimits, panel.x.log, Math.max(3, Math.min(9, Math.floor((box.right - box.left) / 58))))) {
    svg.append(draw("line", { class: "lattice", x1: x(tick), x2: x(tick), y1: box.top, y2: box.bottom }));
    const text = Math.abs(tick) >= 1000 ? human(tick) : trimmed(tick);
    svg.append(draw("text", { class: "tick", x: x(tick), y: box.bottom + 16, "text-anchor": "middle", text }));
  }
  const upward = names ? names.map((_, i) => i) : ticksOf(yLimits, panel.y.log, 6);
  for (const tick of upward) {
    const text = names ? clipped(names[tick], (box.left - 12) / LETTER) : Math.abs(tick) >= 1000 ? human(tick) : trimmed(tick);
    svg.append(draw("line", { class: "lattice", x1: box.left, x2: box.right, y1: y(tick), y2: y(tick) }));
    const label = draw("text", { class: names ? "" : "tick", x: box.left - 7, y: y(tick) + 4, "text-anchor": "end", text });
    if (names && text !== names[tick]) label.append(draw("title", { text: names[tick] }));
    svg.append(label);
  }
  svg.append(draw("line", { class: "frame", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  svg.append(draw("text", { class: "axis", x: (box.left + box.right) / 2, y: box.bottom + 33, "text-anchor": "middle", text: titled(panel.x) }));
  if (!names) svg.append(draw("text", { class: "axis", x: 0, y: 11, text: titled(panel.y) }));
}

const titled = (axis) => (axis.unit && !axis.name.includes(axis.unit) ? `${axis.name} (${axis.unit})` : axis.name);
const clipped = (text, most) => (text.length > most ? `${text.slice(0, Math.max(3, Math.floor(most) - 1))}…` : text);
const path = (points) => points.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");

function fitsAndLevels(svg, panel, { box, x, y }) {
  for (const fit of panel.fits ?? []) {
    if (!fit.x) continue;
    const at = panel.series.findIndex((s) => s.name === fit.of);
    const colour = `var(--c${at < 0 ? COLOURS : placeOf(panel.series[at], at)})`;
    if (fit.low) {
      const edge = [...fit.x.map((v, i) => [x(v), y(fit.high[i])]), ...fit.x.map((v, i) => [x(v), y(fit.low[i])]).reverse()];
      svg.append(draw("path", { d: `${path(edge)}Z`, fill: colour, opacity: 0.14 }));
    }
    svg.append(draw("path", { d: path(fit.x.map((v, i) => [x(v), y(fit.y[i])])), fill: "none", stroke: colour, "stroke-width": 1.5, "stroke-dasharray": "6 3" }));
  }
  for (const [name, value] of panel.levels ?? []) {
    const across = panel.y.categories ? { x1: x(value), x2: x(value), y1: box.top, y2: box.bottom } : { x1: box.left, x2: box.right, y1: y(value), y2: y(value) };
    svg.append(draw("line", { class: "frame", "stroke-dasharray": "2 3", ...across }));
    const where = panel.y.categories ? { x: x(value), y: box.top - 6, "text-anchor": "middle" } : { x: box.left + 4, y: y(value) - 4 };
    svg.append(draw("text", { class: "tick", ...where, text: `${name} ${trimmed(value, 3)}` }));
  }
}

function mark(series, index, r = 4.5) {
  const shape = SHAPES[index](r), colour = `var(--c${index})`;
  const hollow = series.kind === "published";
  return fill(shape, { fill: hollow ? "var(--page)" : colour, stroke: hollow ? colour : "var(--page)", "stroke-width": hollow ? 1.8 : 1 }, []);
}

function marks(svg, panel, { box, x, y, labelled }) {
  const labels = [], found = [];
  panel.series.forEach((series, at) => {
    const index = placeOf(series, at), colour = `var(--c${index})`, dense = series.points.length > 20;
    if (series.joined) svg.append(draw("path", { d: path(series.points.map((p) => [x(p.x), y(p.y)])), fill: "none", stroke: colour, "stroke-width": 1.6 }));
    for (const point of series.points) {
      const px = x(point.x), py = y(point.y);
      if (!Number.isFinite(px) || !Number.isFinite(py)) continue;
      const [low, high] = ends(point, panel);
      if (high !== undefined) {
        const line = panel.y.categories ? { x1: x(low), x2: x(high), y1: py, y2: py } : { x1: px, x2: px, y1: y(low), y2: y(high) };
        svg.append(draw("line", { stroke: colour, "stroke-width": 1.6, ...line }));
      }
      if (!(dense && series.joined)) svg.append(draw("g", { transform: `translate(${px.toFixed(1)} ${py.toFixed(1)})` }, mark(series, index)));
      found.push({ px, py, point, series, index });
    }
    if (labelled) labels.push(...textsOf(series).map(([point, text, must]) => ({ x: x(point.x), y: y(point.y), text, must, joined: series.joined })));
  });
  const taken = found.map(({ px, py }) => [px - 6, py - 6, px + 6, py + 6]);
  labels.sort((a, b) => b.must - a.must);
  const aside = labels.filter((label) => !beside(svg, label, taken, box) && label.must);
  for (const { x: lx, y: ly, at, text } of spread(aside, 14, box.top + 4, box.bottom)) {
    const start = box.right + 6;
    if (lx < start - 14 || Math.abs(at - ly) > 3) svg.append(draw("line", { class: "leader", x1: lx + 7, y1: ly, x2: start - 2, y2: at }));
    svg.append(draw("text", { x: start, y: at + 4, text: clipped(text, (svg.viewBox.baseVal.width - start) / LETTER) }));
  }
  return found.sort((a, b) => a.px - b.px || a.py - b.py);
}

// Which points are labelled with what, and whether they must be: each with its own label, one with the series' name.
function textsOf(series) {
  if (!series.points.length) return [];
  const last = series.points.reduce((a, b) => (b.x >= a.x ? b : a));
  const own = series.points.filter((p) => p.label && p !== last && !series.joined).map((p) => [p, p.label, false]);
  const alone = series.points.length === 1 && !(last.label ?? "").includes(series.name.split("-").at(-1));
  const named = series.joined || alone || !(own.length || last.label);
  return [...own, [last, named ? [series.name, series.joined ? "" : last.label].filter(Boolean).join(", ") : last.label ?? series.name, true]];
}

// A name next to its point, where that is far from the margin and nothing is in the way; false where it found no place.
function beside(svg, { x, y, text, must, joined }, taken, box) {
  const width = text.length * LETTER;
  if (must && x > box.right - (joined ? 120 : 30)) return false;
  for (const [left, base] of [[x + 9, y + 4], [x + 6, y - 9], [x + 6, y + 18], [x - width - 9, y + 4]]) {
    const to = left < x ? { x: left + width, "text-anchor": "end" } : { x: left };
    const room = [left, base - 11, left + width, base + 3];
    const free = taken.every((b) => room[0] > b[2] || room[2] < b[0] || room[1] > b[3] || room[3] < b[1]);
    if (!free || room[0] < box.left || room[2] > box.right || room[1] < box.top || room[3] > box.bottom) continue;
    taken.push(room);
    svg.append(draw("text", { ...to, y: base, text }));
    return true;
  }
  return false;
}

// The words of a point: its name and its numbers.
function wordsOf(panel, { point, series }) {
  const names = panel.y.categories;
  const interval = point.low === undefined ? "" : ` [${trimmed(point.low)}, ${trimmed(point.high)}]`;
  const across = measured(point.x, panel.x), up = names ? "" : measured(point.y, panel.y);
  const title = [series.name, point.label].filter((w, i, all) => w && all.indexOf(w) === i).join(" · ");
  const values = (point.values?.length ?? 0) > 1 ? `${point.values.length} seeds: ${point.values.map((v) => trimmed(v)).join(", ")}` : "";
  const lines = names
    ? [`${panel.x.name}: ${across}${interval}`]
    : [`${panel.y.name}: ${up}${interval}`, `${panel.x.name}: ${across}`];
  return { title: names && !point.label ? `${names[point.y]} · ${title}` : title, lines: [...lines, values, point.note ?? ""].filter(Boolean) };
}

// A panel as an element that draws itself again when its width changes.
function plot(panel) {
  const holder = make("div", { class: "plot" });
  let width = 0;
  const again = () => {
    const room = Math.round(holder.clientWidth);
    if (room && room !== width) holder.replaceChildren(...drawn(panel, (width = room)));
  };
  new ResizeObserver(again).observe(holder);
  const fits = (panel.fits ?? []).map((fit) => fit.words).filter(Boolean);
  const caption = make("figcaption", {}, [...fits, panel.caption].filter(Boolean).map((text) => make("div", { text })));
  return make("figure", {}, make("h3", { text: panel.title }), holder, caption, legend(panel), valuesOf(panel));
}

function legend(panel) {
  if (panel.y.categories ? panel.series.length < 2 : panel.series.length <= 12) return null;
  const items = panel.series.map((series, index) => make("span", { class: "small" }, draw("svg", { width: 16, height: 12, viewBox: "-8 -6 16 12", "aria-hidden": "true" }, mark(series, placeOf(series, index))), `${series.name}  `));
  return make("p", {}, items);
}

function drawn(panel, width) {
  const plan = layout(panel, width);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${plan.height}`, tabindex: "0", role: "group", "aria-label": `${panel.title}. ${panel.y.name || "a row each"} against ${panel.x.name}. Arrow keys go from point to point, Enter opens its run.` });
  axes(svg, panel, plan);
  fitsAndLevels(svg, panel, plan);
  const points = marks(svg, panel, plan);
  const ring = draw("circle", { class: "active", r: 8, visibility: "hidden" }), tip = make("div", { class: "tip", hidden: true });
  svg.append(ring);
  listen(svg, panel, plan, points, (found) => show(panel, plan, found, ring, tip));
  return [svg, tip];
}

function show(panel, plan, found, ring, tip) {
  tip.hidden = !found;
  ring.setAttribute("visibility", found ? "visible" : "hidden");
  if (!found) return;
  const { title, lines } = wordsOf(panel, found);
  ring.setAttribute("cx", found.px);
  ring.setAttribute("cy", found.py);
  tip.replaceChildren(make("strong", { text: title }), ...lines.map((text) => make("span", { text })));
  tip.style.left = `${Math.max(0, Math.min(found.px + 12, plan.width - tip.offsetWidth))}px`;
  tip.style.top = `${found.py > tip.offsetHeight + 14 ? found.py - tip.offsetHeight - 12 : found.py + 14}px`;
}

function listen(svg, panel, plan, points, showing) {
  let at = -1;
  const open = (found) => found?.point.records?.length && (location.hash = `#run/${encodeURIComponent(found.point.records[0])}`);
  const nearest = (event) => {
    const frame = svg.getBoundingClientRect(), scale = plan.width / frame.width;
    const px = (event.clientX - frame.left) * scale, py = (event.clientY - frame.top) * scale;
    const near = points.map((p) => ({ p, d: Math.hypot(p.px - px, p.py - py) })).filter(({ d }) => d < NEAR).sort((a, b) => a.d - b.d)[0];
    return near?.p ?? null;
  };
  svg.addEventListener("pointermove", (event) => showing(nearest(event)));
  svg.addEventListener("pointerdown", (event) => showing(nearest(event)));
  svg.addEventListener("pointerleave", () => showing(null));
  svg.addEventListener("click", (event) => matchMedia("(hover: hover)").matches && open(nearest(event)));
  svg.addEventListener("blur", () => showing(null));
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -1e9, End: 1e9 }[event.key];
    if (step && points.length) {
      event.preventDefault();
      at = Math.max(0, Math.min(points.length - 1, Math.abs(step) > 1 ? (step > 0 ? 1e9 : 0) : at + step));
      showing(points[at]);
      const { title, lines } = wordsOf(panel, points[at]);
      say([title, ...lines].join("; "));
    } else if (event.key === "Enter") open(points[at]);
    else if (event.key === "Escape") showing(null);
  });
}

// The same numbers as a table.
function valuesOf(panel) {
  const body = () => pointsOf(panel).map(({ series, point }) => {
    const name = panel.y.categories ? panel.y.categories[point.y] : point.label;
    const own = (point.records ?? []).map((id, i) => runLink(id, data.runs[id]?.seed ?? i));
    return make("tr", {}, make("th", { scope: "row", text: series.name }), make("td", { text: name ?? "" }),
      make("td", { class: "number", text: measured(point.x, panel.x) }),
      make("td", { class: "number", text: panel.y.categories ? "" : measured(point.y, panel.y) }),
      make("td", { class: "number", text: point.low === undefined ? "" : `${trimmed(point.low)} to ${trimmed(point.high)}` }),
      make("td", { class: "seeds" }, own), make("td", { class: "words small", text: point.note ?? "" }));
  });
  const heads = ["series", "point", panel.x.name, panel.y.categories ? "" : panel.y.name, "95 % interval", "runs, by seed", "note"];
  const details = make("details", {}, make("summary", { text: "The values as a table" }));
  details.addEventListener("toggle", () => {
    if (!details.open || details.querySelector("table")) return;
    const head = headsOf(heads, [2, 3, 4]);
    details.append(scrolling(`Values of ${panel.title}`, make("table", {}, head, make("tbody", {}, body()))));
  });
  return details;
}
