// The papers' tables: what was published beside what was measured.

const VERDICTS = {
  reproduced: ["good", "✓", "measured in the paper's own setting, within the stated tolerance"],
  "order reproduced": ["fair", "≈", "the ranking of the variants holds; the values are not compared"],
  "not reproduced": ["bad", "✗", "measured, and it came out differently, or the runs cannot tell"],
  "not run": ["none", "○", "nothing was measured, or not all that the verdict needs"],
  reference: ["none", "–", "published numbers alone: nothing here can be run"],
};

function badge(verdict) {
  if (!verdict) return "";
  const [look, sign] = VERDICTS[verdict] ?? ["none", "?"];
  return make("span", { class: `verdict ${look}` }, make("span", { "aria-hidden": "true", text: `${sign} ` }), verdict);
}

function tablesView(name) {
  const own = data.tables.filter((table) => table.name === name);
  if (own.length) {
    const measured = [...own].sort((a, b) => (b.run > 0) - (a.run > 0));
    return [make("p", { class: "small" }, make("a", { href: "#tables", text: "All tables" })), make("h1", { text: own[0].title }), ...measured.map(tableSection)];
  }
  const heading = [make("h1", { text: "Paper tables" }), make("p", { text: "What papers published, with its source, beside what was measured here. Neither column is ever filled from the other; at a small scale only the order of the variants is judged." })];
  return data.tables.length ? [...heading, verdictWords(), overview()] : [...heading, make("p", { text: "There are no tables yet." })];
}

const verdictWords = () => make("ul", { class: "notes small" }, Object.entries(VERDICTS).map(([name, [, , words]]) => make("li", {}, badge(name), ` ${words}`)));

// A row a table, a column a scale.
function overview() {
  const scales = [...new Set(data.tables.map((table) => table.scale))];
  const rows = [...new Set(data.tables.map((table) => table.name))].map((name) => {
    const own = scales.map((scale) => data.tables.find((t) => t.name === name && t.scale === scale));
    const first = own.find(Boolean);
    const cells = own.map((table) => make("td", {}, table ? badge(table.verdict) : "", table?.cells ? make("span", { class: "spread", text: ` ${table.run} of ${table.cells}` }) : ""));
    return make("tr", {}, make("th", { scope: "row" }, make("a", { href: `#tables/${name}`, text: first.title })), make("td", {}, make("code", { text: name })), make("td", { text: first.paper }), cells);
  });
  const head = headsOf(["table", "name", "paper", ...scales.map((scale) => `${scale} scale: verdict, lines measured`)]);
  return scrolling("Verdicts of all tables", make("table", {}, head, make("tbody", {}, rows)));
}

function tableSection(table) {
  const order = table.order ? make("p", { text: `Order: ${table.order_words}.` }) : null;
  const commands = commandsOf(table.commands?.join("\n"));
  return make("section", {},
    make("h2", {}, `At ${table.scale} scale: `, badge(table.verdict)),
    make("p", { class: "small soft", text: `${table.paper}.${runWords(table)}` }),
    order, (table.notes ?? []).map((text) => make("p", { class: "small", text })), rowsOf(table), commands);
}

const runWords = (table) => (table.cells ? ` At ${table.scale} scale ${table.run} of ${table.cells} lines are measured${table.protocol ? `: ${table.protocol}` : ""}.` : "");

function rowsOf(table) {
  const head = headsOf(["row", "metric", "published", "measured", "difference", "verdict", "runs", "source"], [2, 3, 4]);
  const rows = table.rows.map((row) => make("tr", {},
    make("th", { scope: "row", text: row.line }),
    make("td", { text: `${row.metric}${{ lower: " ↓", higher: " ↑" }[row.direction] ?? ""}` }),
    row.printed ? make("td", { class: "number", text: row.printed }) : make("td", { class: "words small", text: row.words ?? "" }),
    make("td", { class: "number" }, ...measuredCell(row)),
    make("td", { class: "number", text: row.difference === undefined ? "" : `${row.difference > 0 ? "+" : ""}${trimmed(row.difference, 3)}` }),
    make("td", {}, badge(row.verdict)),
    make("td", { class: "seeds small" }, (row.records ?? []).map((id, i) => runLink(id, data.runs[id]?.seed ?? i))),
    make("td", { class: "words small", text: [row.source, row.verified && `(${row.verified})`, row.note].filter(Boolean).join(" ") })));
  return scrolling(table.title, make("table", {}, head, make("tbody", {}, rows)));
}

// Mean and interval, with the number of seeds.
function measuredCell(row) {
  if (row.measured === undefined) return [""];
  const interval = row.low === undefined ? "" : ` [${trimmed(row.low, 3)}, ${trimmed(row.high, 3)}]`;
  return [trimmed(row.measured), make("span", { class: "spread", text: `${interval}${row.seeds > 1 ? ` (${row.seeds})` : ""}` })];
}
