// A run's own page.

function runView(id) {
  if (!data.records[id]) return [make("h1", { text: "No such run" }), make("p", {}, "This file has no record ", make("code", { text: id }), ".")];
  const record = JSON.parse(recordText(id)), run = data.runs[id];
  const board = data.boards.find((b) => b.fingerprint === record.fingerprint);
  const seed = run.seed === null ? "" : `, seed ${run.seed}`;
  return [
    make("h1", { text: `${record.label}${seed}` }),
    make("p", { class: "small" }, make("code", { class: "copied", text: id }), ` · ${record.kind} · ${record.status} · ${record.created.slice(0, 10)} · `,
      make("a", { href: board ? `#leaderboards/${board.fingerprint}` : "#leaderboards", text: `protocol ${record.fingerprint}` })),
    board ? make("p", { class: "small", text: `${board.about}.` }) : null,
    record.error ? make("section", {}, make("h2", { text: "Why it did not finish" }), make("pre", { text: record.error })) : null,
    siblings(id, board),
    make("h2", { text: "Results" }), metricsOf(record),
    ...curvesOf(record),
    ...gridOf(id, record),
    make("h2", { text: "Cost, configuration and provenance" }),
    make("div", { class: "facts" },
      section("Cost", costOf(record.cost)), ...Object.entries(record.config).filter(([, v]) => isObject(v)).map(([name, v]) => section(name, pairs(v))),
      section("Run", pairs(Object.fromEntries(Object.entries(record.config).filter(([, v]) => !isObject(v))))),
      section("Provenance", pairs({ created: record.created, ...record.environment, checkpoint: record.checkpoint, fingerprint: record.fingerprint, "evaluation fingerprint": record.evaluation_fingerprint })),
      section("Protocol: evaluation", pairs(record.protocol.evaluation)), section("Protocol: training", pairs(record.protocol.training))),
    incidentsOf(record), jsonOf(id, record),
  ];
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const section = (title, content) => (content ? make("section", {}, make("h3", { text: title }), content) : null);

function siblings(id, board) {
  const row = board?.rows.find((one) => one.runs.includes(id));
  if (!row || row.runs.length < 2) return null;
  return make("p", { class: "seeds" }, "The same with other seeds: ", row.runs.filter((one) => one !== id).flatMap((one) => [runLink(one, `seed ${data.runs[one].seed}`), " "]));
}

// A table of keys and values, nested ones with dotted names.
function pairs(values, skip = []) {
  const lines = flat(values ?? {}).filter(([key]) => !skip.includes(key));
  if (!lines.length) return null;
  return make("table", {}, make("tbody", {}, lines.map(([key, value]) => make("tr", {}, make("th", { scope: "row" }, broken(key)), make("td", { text: value })))));
}

// A dotted name that may go to a new line after its dots and underscores.
const broken = (name) => name.split(/(?<=[._])/).flatMap((part) => [part, make("wbr")]);

function flat(values, before = "") {
  return Object.entries(values).flatMap(([key, value]) => {
    if (isObject(value)) return Object.keys(value).length ? flat(value, `${before}${key}.`) : [];
    if (value === null || value === "") return [];
    return [[before + key, Array.isArray(value) ? JSON.stringify(value) : String(value)]];
  });
}

function metricsOf(record) {
  const rows = Object.entries(record.metrics).map(([name, m]) => make("tr", {}, make("th", { scope: "row", text: `${name} ${m.direction === "lower" ? "↓" : "↑"}` }),
    make("td", { class: "number", text: trimmed(m.value) }), make("td", { class: "number", text: m.interval ? `${trimmed(m.interval.low)} to ${trimmed(m.interval.high)}` : "" }),
    make("td", { class: "number", text: whole(m.samples) }), make("td", { class: "words small", text: m.interval?.method ?? "" })));
  if (!rows.length) return make("p", { text: "None: it was not measured." });
  const head = headsOf(["metric", "value", "95 % interval", "samples", "how the interval was found"], [1, 2, 3]);
  return scrolling("Metrics", make("table", {}, head, make("tbody", {}, rows)));
}

// A line for the loss and for each metric, and the metrics as a table.
function curvesOf(record) {
  const losses = record.losses ?? [], metrics = Object.entries(record.metrics), lines = [];
  if (losses.length > 1) lines.push(sparkline("Training loss ↓", losses, true));
  for (const [name, { direction }] of metrics) {
    const points = record.curve.filter((p) => name in p.metrics).map((p) => [p.images, p.metrics[name]]);
    if (points.length > 1) lines.push(sparkline(`${name} ${direction === "lower" ? "↓" : "↑"}`, points, name.startsWith("fid")));
  }
  if (!lines.length) return [];
  const names = metrics.map(([name]) => name), right = [0, ...names.map((_, i) => i + 1)];
  const rows = record.curve.map((p) => make("tr", {}, [whole(p.images), ...names.map((name) => (name in p.metrics ? trimmed(p.metrics[name]) : ""))].map((text) => make("td", { class: "number", text }))));
  const table = rows.length ? scrolling("Metrics while training", make("table", {}, headsOf(["training images", ...names], right), make("tbody", {}, rows))) : null;
  return [make("h2", { text: "Curves" }), make("div", { class: "sparks" }, lines), table];
}

// The shape of a curve [[images, value], ...], without axes: its caption says where it begins and ends.
function sparkline(title, points, log) {
  const up = points.map(([, value]) => (log && points.every(([, v]) => v > 0) ? Math.log(value) : value));
  const shares = (values) => {
    const low = Math.min(...values), span = Math.max(...values) - low || 1;
    return values.map((value) => (value - low) / span);
  };
  const heights = shares(up), line = shares(points.map(([images]) => images)).map((x, i) => `${(3 + 294 * x).toFixed(1)},${(77 - 74 * heights[i]).toFixed(1)}`);
  const [[from, first], [to, last]] = [points[0], points.at(-1)];
  const words = `${trimmed(first)} after ${whole(from)} images, ${trimmed(last)} after ${whole(to)}`;
  const svg = draw("svg", { viewBox: "0 0 300 80", role: "img", "aria-label": `${title}: ${words}` }, draw("polyline", { points: line.join(" ") }));
  return make("figure", {}, make("h3", { text: title }), svg, make("figcaption", { text: `${words}.` }));
}

function gridOf(id, record) {
  if (!data.pictures.there.includes(id)) return [];
  return [make("h2", { text: "Samples" }), make("div", { class: "grid" }, lazily(id, `Samples of ${record.label}, a class a column`))];
}

function costOf(cost) {
  if (!cost) return null;
  const said = {
    parameters: human(cost.params), "MACs an image": human(cost.macs), "FLOPs an image": human(cost.flops), "training FLOPs": human(cost.training_flops),
    "network passes a guided step": cost.guidance_multiplier, "sampling FLOPs an image": human(cost.sampling_flops_per_image),
    "training images/s": cost.images_per_second && trimmed(cost.images_per_second), MFU: cost.mfu && `${(100 * cost.mfu).toFixed(1)} %`,
    "peak memory": `${(cost.peak_memory_bytes / 2 ** 30).toFixed(2)} GiB`, "accelerator-hours": trimmed(cost.accelerator_hours),
  };
  return pairs(said);
}

function incidentsOf(record) {
  if (!record.incidents.length) return section("Incidents", make("p", { text: "None." }));
  return section("Incidents", make("ol", { class: "small" }, record.incidents.map((one) => make("li", { text: flat(one).map(([k, v]) => `${k}: ${v}`).join(", ") }))));
}

// The record itself, as a file; its numbers are written exactly as they were.
function jsonOf(id, record) {
  const link = make("a", { href: "#", download: `${id}.json`, text: `Download ${id}.json` });
  link.addEventListener("click", () => {
    const url = URL.createObjectURL(new Blob([`${recordText(id)}\n`], { type: "application/json" }));
    link.href = url;
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  });
  const details = make("details", {}, make("summary", { text: "Show the record" }));
  details.addEventListener("toggle", () => details.open && !details.querySelector("pre") && details.append(make("pre", { tabindex: "0", text: JSON.stringify(record, null, 2) })));
  return make("section", {}, make("h2", { text: "The record" }), make("p", { class: "copied" }, link, ` (in the repository: results/records/v1/${id}.json)`), details);
}
