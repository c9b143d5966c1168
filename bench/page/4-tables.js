// The papers' tables: what was published beside what was measured.

const VERDICTS = {
  reproduced: ["good", "✓", "measured in the paper's own setting, within the stated tolerance"],
  "order reproduced": ["fair", "≈", "the ranking of the variants holds; the values are not compared"],
  "not reproduced": ["bad", "✗", "measured, and it came out differently, or the runs cannot tell"],
  "not run": ["none", "○", "nothing was measured, or not all that the verdict needs"],
  reference: ["none", "–", "published numbers alone: nothing here can be run"],
};
let chosenScale = "";

function badge(verdict) {
  if (!verdict) return "";
  const [look, sign] = VERDICTS[verdict] ?? ["none", "?"];
  return make("span", { class: `verdict ${look}` }, make("span", { "aria-hidden": "true", text: `${sign} ` }), verdict);
}

function tablesView() {
  const scales = [...new Set(data.tables.map((table) => table.scale))];
  if (!scales.includes(chosenScale)) chosenScale = scales.find((scale) => data.tables.some((t) => t.scale === scale && t.run)) ?? scales[0];
  const body = make("div");
  const again = () => body.replaceChildren(...data.tables.filter((table) => table.scale === chosenScale).map(tableSection));
  const heading = [make("h1", { text: "Paper tables" }), make("p", { text: "What papers published, with its source, beside what was measured here. Neither column is ever filled from the other; at a small scale only the order of the variants is judged." })];
  if (!data.tables.length) return [...heading, make("p", { text: "There are no tables yet." })];
  const pick = choice("measured at scale", scales, chosenScale, (scale) => { chosenScale = scale; again(); say(`scale ${scale}`); }, "");
  again();
  return [...heading, verdictWords(), overview(scales, again, pick), make("form", { class: "controls", "aria-label": "Scale" }, pick), body];
}

const verdictWords = () => make("ul", { class: "notes small" }, Object.entries(VERDICTS).map(([name, [, , words]]) => make("li", {}, badge(name), ` ${words}`)));

// A row a table, a column a scale.
function overview(scales, again, pick) {
  const names = [...new Set(data.tables.map((table) => table.name))];
  const rows = names.map((name) => {
    const own = scales.map((scale) => data.tables.find((t) => t.name === name && t.scale === scale));
    const first = own.find(Boolean);
    const cells = own.map((table, i) => make("td", {}, table ? badge(table.verdict) : "", table?.cells ? make("span", { class: "spread", text: ` ${table.run} of ${table.cells}` }) : ""));
    const go = () => { const scale = scales.find((_, i) => own[i]?.run) ?? first.scale; chosenScale = scale; pick.querySelector("select").value = scale; again(); };
    return make("tr", {}, make("th", { scope: "row" }, make("a", { href: `#tables/${name}`, onclick: go, text: first.title })), make("td", { text: first.paper }), cells);
  });
  const head = headsOf(["table", "paper", ...scales.map((scale) => `${scale} scale`)]);
  return scrolling("Verdicts of all tables", make("table", {}, head, make("tbody", {}, rows)));
}

function tableSection(table) {
  const order = table.order ? make("p", { text: `Order: ${table.order_words}.` }) : null;
  const commands = table.commands?.length ? make("details", {}, make("summary", { text: "What runs the rest" }), make("pre", { tabindex: "0", text: table.commands.join("\n") })) : null;
  return make("section", { id: `table-${table.name}` },
    make("h2", {}, `${table.title} `, badge(table.verdict)),
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
