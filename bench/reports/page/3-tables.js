// The papers' tables: published and measured values side by side.

const VERDICTS = {
  reproduced: ["good", "✓", "measured in the paper's own setting, within the stated tolerance"],
  "order reproduced": ["fair", "≈", "the ranking of the variants holds; the values are not compared"],
  "not reproduced": ["bad", "✗", "measured, with a different result or with too few runs to decide"],
  "not run": ["none", "○", "the runs that the verdict needs are missing or incomplete"],
  reference: ["none", "–", "published numbers only; there is no run to compare"],
};

function badge(verdict) {
  if (!verdict) return "";
  const [look, sign] = VERDICTS[verdict] ?? ["none", "?"];
  return make("span", { class: `verdict ${look}` }, make("span", { "aria-hidden": "true", text: `${sign} ` }), verdict);
}

function tablesView(name) {
  const sections = data.tables.filter((table) => table.name === name);
  if (sections.length) {
    const measuredFirst = [...sections].sort((a, b) => (b.run > 0) - (a.run > 0));
    return [make("p", { class: "small" }, make("a", { href: "#tables", text: "All tables" })), make("h1", { text: sections[0].title }), ...measuredFirst.map(tableSection)];
  }
  const heading = [make("h1", { text: "Paper tables" }), make("p", { text: "Published values with their source, beside values measured here; the two are never mixed. At a small scale, the verdict concerns only the order of the variants." })];
  return data.tables.length ? [...heading, verdictLegend(), overview()] : [...heading, make("p", { text: "There are no tables yet." })];
}

const verdictLegend = () => make("ul", { class: "notes small" }, Object.entries(VERDICTS).map(([name, [, , words]]) => make("li", {}, badge(name), ` ${words}`)));

// The verdicts: one row per table, one column per scale.
function overview() {
  const scales = [...new Set(data.tables.map((table) => table.scale))];
  const rows = [...new Set(data.tables.map((table) => table.name))].map((name) => {
    const byScale = scales.map((scale) => data.tables.find((t) => t.name === name && t.scale === scale));
    const first = byScale.find(Boolean);
    const cells = byScale.map((table) => make("td", {}, table ? badge(table.verdict) : "", table?.cells ? make("span", { class: "spread", text: ` ${table.run} of ${table.cells}` }) : ""));
    return make("tr", {}, make("th", { scope: "row" }, make("a", { href: `#tables/${name}`, text: first.title })), make("td", {}, make("code", { text: name })), make("td", { text: first.paper }), cells);
  });
  const head = headsOf(["table", "name", "paper", ...scales.map((scale) => `${scale} scale: verdict, rows measured`)]);
  return scrolling("Verdicts of all tables", make("table", {}, head, make("tbody", {}, rows)));
}

function tableSection(table) {
  const order = table.order ? make("p", { text: `Order: ${table.order_words}.` }) : null;
  const commands = commandsOf(table.commands?.join("\n"));
  return make("section", {},
    make("h2", {}, `At ${table.scale} scale: `, badge(table.verdict)),
    make("p", { class: "small soft", text: `${table.paper}.${coverageNote(table)}` }),
    order, (table.notes ?? []).map((text) => make("p", { class: "small", text })), rowsOf(table), commands);
}

const coverageNote = (table) => (table.cells ? ` At ${table.scale} scale ${table.run} of ${table.cells} rows are measured${table.protocol ? `: ${table.protocol}` : ""}.` : "");

function rowsOf(table) {
  const head = headsOf(["row", "metric", "published", "measured", "difference", "verdict", "runs", "source"], [2, 3, 4]);
  const rows = table.rows.map((row) => make("tr", {},
    make("th", { scope: "row", text: row.line }),
    make("td", { text: `${row.metric}${{ lower: " ↓", higher: " ↑" }[row.direction] ?? ""}` }),
    row.printed ? make("td", { class: "number", text: row.printed }) : make("td", { class: "words small", text: row.words ?? "" }),
    make("td", { class: "number" }, ...measuredCell(row)),
    make("td", { class: "number", text: row.difference === undefined ? "" : `${row.difference > 0 ? "+" : ""}${formatNumber(row.difference, 3)}` }),
    make("td", {}, badge(row.verdict)),
    make("td", { class: "seeds small" }, (row.records ?? []).map((id, i) => runLink(id, data.runs[id]?.seed ?? i))),
    make("td", { class: "words small", text: [row.source, row.verified && `(${row.verified})`, row.note].filter(Boolean).join(" ") })));
  return scrolling(table.title, make("table", {}, head, make("tbody", {}, rows)));
}

// Mean and interval, with the number of seeds.
function measuredCell(row) {
  if (row.measured === undefined) return [""];
  const interval = row.low === undefined ? "" : ` [${formatNumber(row.low, 3)}, ${formatNumber(row.high, 3)}]`;
  return [formatNumber(row.measured), make("span", { class: "spread", text: `${interval}${row.seeds > 1 ? ` (${row.seeds})` : ""}` })];
}
