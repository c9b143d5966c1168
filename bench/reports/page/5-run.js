// The view of one run.

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
    record.error ? make("section", {}, make("h2", { text: "Why the run did not finish" }), make("pre", { text: record.error })) : null,
    otherSeeds(id, board),
    make("h2", { text: "Results" }), metricsOf(record),
    ...curvesOf(record),
    ...gridOf(id, record),
    make("h2", { text: "Cost, configuration and provenance" }),
    make("div", { class: "facts" },
      section("Cost", costOf(record.cost)), ...Object.entries(record.config).filter(([, v]) => isObject(v)).map(([name, v]) => section(name, keyValueTable(v))),
      section("Run", keyValueTable(Object.fromEntries(Object.entries(record.config).filter(([, v]) => !isObject(v))))),
      section("Provenance", keyValueTable({ created: record.created, ...record.environment, checkpoint: record.checkpoint, fingerprint: record.fingerprint, "evaluation fingerprint": record.evaluation_fingerprint })),
      section("Protocol: evaluation", keyValueTable(record.protocol.evaluation)), section("Protocol: training", keyValueTable(record.protocol.training))),
    incidentsOf(record), jsonOf(id, record),
  ];
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const section = (title, content) => (content ? make("section", {}, make("h3", { text: title }), content) : null);

function otherSeeds(id, board) {
  const row = board?.rows.find((one) => one.runs.includes(id));
  if (!row || row.runs.length < 2) return null;
  return make("p", { class: "seeds" }, "Other seeds: ", row.runs.filter((one) => one !== id).flatMap((one) => [runLink(one, `seed ${data.runs[one].seed}`), " "]));
}

// A table of keys and values; nested keys have dotted names.
function keyValueTable(values, skip = []) {
  const lines = flatten(values ?? {}).filter(([key]) => !skip.includes(key));
  if (!lines.length) return null;
  return make("table", {}, make("tbody", {}, lines.map(([key, value]) => make("tr", {}, make("th", { scope: "row" }, breakable(key)), make("td", { text: value })))));
}

// A dotted name that may be wrapped after its dots and underscores.
const breakable = (name) => name.split(/(?<=[._])/).flatMap((part) => [part, make("wbr")]);

function flatten(values, before = "") {
  return Object.entries(values).flatMap(([key, value]) => {
    if (isObject(value)) return Object.keys(value).length ? flatten(value, `${before}${key}.`) : [];
    if (value === null || value === "") return [];
    return [[before + key, Array.isArray(value) ? JSON.stringify(value) : String(value)]];
  });
}

function metricsOf(record) {
  const rows = Object.entries(record.metrics).map(([name, m]) => make("tr", {}, make("th", { scope: "row", text: `${name} ${m.direction === "lower" ? "↓" : "↑"}` }),
    make("td", { class: "number", text: formatNumber(m.value) }), make("td", { class: "number", text: m.interval ? `${formatNumber(m.interval.low)} to ${formatNumber(m.interval.high)}` : "" }),
    make("td", { class: "number", text: formatInteger(m.samples) }), make("td", { class: "words small", text: m.interval?.method ?? "" })));
  if (!rows.length) return make("p", { text: "This run has no metrics." });
  const head = headsOf(["metric", "value", "95 % interval", "samples", "method of the interval"], [1, 2, 3]);
  return scrolling("Metrics", make("table", {}, head, make("tbody", {}, rows)));
}

// Curves of the loss and of each metric, and a table of the metrics.
function curvesOf(record) {
  const losses = record.losses ?? [], metrics = Object.entries(record.metrics), lines = [];
  if (losses.length > 1) lines.push(sparkline("Training loss ↓", losses, true));
  for (const [name, { direction }] of metrics) {
    const points = record.curve.filter((p) => name in p.metrics).map((p) => [p.images, p.metrics[name]]);
    if (points.length > 1) lines.push(sparkline(`${name} ${direction === "lower" ? "↓" : "↑"}`, points, name.startsWith("fid")));
  }
  if (!lines.length) return [];
  const names = metrics.map(([name]) => name), right = [0, ...names.map((_, i) => i + 1)];
  const rows = record.curve.map((p) => make("tr", {}, [formatInteger(p.images), ...names.map((name) => (name in p.metrics ? formatNumber(p.metrics[name]) : ""))].map((text) => make("td", { class: "number", text }))));
  const table = rows.length ? scrolling("Metrics during training", make("table", {}, headsOf(["training images", ...names], right), make("tbody", {}, rows))) : null;
  return [make("h2", { text: "Curves" }), make("div", { class: "sparks" }, lines), table];
}

// A curve [[images, value], ...] without axes; the caption has its first and last value.
function sparkline(title, points, log) {
  const up = points.map(([, value]) => (log && points.every(([, v]) => v > 0) ? Math.log(value) : value));
  const shares = (values) => {
    const low = Math.min(...values), span = Math.max(...values) - low || 1;
    return values.map((value) => (value - low) / span);
  };
  const heights = shares(up), line = shares(points.map(([images]) => images)).map((x, i) => `${(3 + 294 * x).toFixed(1)},${(77 - 74 * heights[i]).toFixed(1)}`);
  const [[from, first], [to, last]] = [points[0], points.at(-1)];
  const words = `${formatNumber(first)} after ${formatInteger(from)} images, ${formatNumber(last)} after ${formatInteger(to)}`;
  const svg = makeSvg("svg", { viewBox: "0 0 300 80", role: "img", "aria-label": `${title}: ${words}` }, makeSvg("polyline", { points: line.join(" ") }));
  return make("figure", {}, make("h3", { text: title }), svg, make("figcaption", { text: `${words}.` }));
}

function gridOf(id, record) {
  if (!data.pictures.embedded.includes(id)) return [];
  return [make("h2", { text: "Samples" }), make("div", { class: "grid" }, lazyImage(id, `Samples of ${record.label}, one class per column`))];
}

function costOf(cost) {
  if (!cost) return null;
  const values = {
    parameters: formatEngineering(cost.params), "MACs per image": formatEngineering(cost.macs), "FLOPs per image": formatEngineering(cost.flops), "training FLOPs": formatEngineering(cost.training_flops),
    "network evaluations per guided step": cost.guidance_multiplier, "sampling FLOPs per image": formatEngineering(cost.sampling_flops_per_image),
    "training images/s": cost.images_per_second && formatNumber(cost.images_per_second), MFU: cost.mfu && `${(100 * cost.mfu).toFixed(1)} %`,
    "peak memory": `${(cost.peak_memory_bytes / 2 ** 30).toFixed(2)} GiB`, "accelerator-hours": formatNumber(cost.accelerator_hours),
  };
  return keyValueTable(values);
}

function incidentsOf(record) {
  if (!record.incidents.length) return section("Incidents", make("p", { text: "None." }));
  return section("Incidents", make("ol", { class: "small" }, record.incidents.map((one) => make("li", { text: flatten(one).map(([k, v]) => `${k}: ${v}`).join(", ") }))));
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
