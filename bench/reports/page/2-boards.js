// Leaderboards: one table per protocol, each with its own order, with common filters.

const filterState = { data: "", track: "", images: "", arch: "", words: "", each: false };

// Columns of a table: title, sort value (null comes last), cell content, and whether more is better.
function columnsOf(board) {
  const number = (key, title, write, more = false) => ({ key, title, value: (row) => row[key], cell: (row) => write(row[key]), number: true, more });
  return [
    { key: "rank", title: "rank", value: (row) => row.rank, cell: (row) => make("span", { title: row.rank_range && `rank ${row.rank_range}`, text: row.rank_words ?? "–" }), number: true },
    { key: "label", title: "model", value: (row) => row.label, cell: (row) => (row.runs.length ? runLink(row.runs[0], row.label) : row.label), head: true },
    ...board.metrics.map((metric) => ({
      key: metric.name, title: `${metric.title} ${metric.direction === "lower" ? "↓" : "↑"}`, number: true, more: metric.direction === "higher",
      value: (row) => row.metrics[metric.name]?.value, cell: (row) => valueCell(row.metrics[metric.name]),
    })),
    number("samples", "N", formatInteger, true),
    number("params", "parameters", formatEngineering),
    number("macs", "MACs", formatEngineering),
    number("training_flops", "training FLOPs", formatEngineering),
    number("hours", "accelerator-hours", (v) => (v === null ? "" : formatNumber(v, 3))),
    number("speed", "images/s", (v) => (v === null ? "" : formatNumber(v, 3)), true),
    number("incidents", "incidents", formatInteger),
    { key: "date", title: "date", look: "whole", value: (row) => row.date, cell: (row) => row.date, more: true },
    { key: "commit", title: "commit", value: (row) => row.commit, look: "whole", cell: (row) => commitCell(row.commit) },
    { key: "seeds", title: "runs, by seed", value: (row) => row.runs.length, more: true, look: "seeds", cell: (row) => row.runs.map((id) => runLink(id, data.runs[id].seed ?? "run")) },
  ];
}

// The first commit, and the number of others.
function commitCell(commits) {
  const [first, ...others] = (commits ?? "").split(", ");
  return make("span", { title: commits }, make("code", { text: first }), others.length ? ` and ${others.length} more` : "");
}

// Format 0.535 ± 0.020 (3): mean and standard deviation over 3 seeds, or value and half-width of the interval of one run.
function valueCell(metric) {
  if (!metric) return "";
  const words = metric.half === null ? "" : ` ± ${formatFixed(metric.half)}${metric.n > 1 ? ` (${metric.n})` : ""}`;
  const about = metric.low === null ? "" : `${metric.interval}: ${formatFixed(metric.low)} to ${formatFixed(metric.high)}`;
  return make("span", { title: about }, formatFixed(metric.value), make("span", { class: "spread", text: words }));
}

// One row per run, from the records of a row.
function runsOf(row) {
  return row.runs.map((id) => {
    const record = JSON.parse(recordText(id)), cost = record.cost ?? {}, run = data.runs[id];
    const metrics = Object.fromEntries(Object.entries(record.metrics).map(([name, m]) => [name, {
      value: m.value, n: 1, half: m.interval ? (m.interval.high - m.interval.low) / 2 : null,
      low: m.interval?.low ?? null, high: m.interval?.high ?? null, interval: "95 % interval",
    }]));
    return { ...row, label: `${row.label}${run.seed === null ? "" : `, seed ${run.seed}`}`, runs: [id], metrics,
      hours: cost.accelerator_hours ?? null, speed: cost.images_per_second ?? null, incidents: record.incidents.length,
      date: record.created.slice(0, 10), commit: record.environment.commit };
  });
}

function sorted(rows, column, descending) {
  const known = (value) => value !== null && value !== undefined && value !== "";
  return [...rows].sort((a, b) => {
    const [x, y] = [column.value(a), column.value(b)];
    if (!known(x) || !known(y)) return known(y) - known(x);
    const order = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
    return descending ? -order : order;
  });
}

function shownRows(board) {
  const words = filterState.words.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (row) => row.kind === "reference" || ((!filterState.arch || row.arch === filterState.arch) && words.every((w) => row.label.toLowerCase().includes(w)));
  const rows = board.rows.filter(fits);
  return filterState.each ? rows.flatMap(runsOf) : rows;
}

// A table in order of the mean.  A click on a header sorts by its column, best first; a second click reverses the order.
function boardTable(board) {
  const columns = columnsOf(board), body = make("tbody"), heads = [];
  const state = { column: null, descending: false };
  const refill = () => {
    const rows = state.column ? sorted(shownRows(board), state.column, state.descending) : shownRows(board);
    body.replaceChildren(...rows.map((row) => rowOf(row, columns)));
    columns.forEach((column, i) => heads[i].setAttribute("aria-sort", column === state.column ? (state.descending ? "descending" : "ascending") : "none"));
  };
  for (const column of columns) {
    const order = () => {
      state.descending = state.column === column ? !state.descending : Boolean(column.more);
      state.column = column;
      refill();
      announce(`sorted by ${column.title}, ${state.descending ? "descending" : "ascending"}`);
    };
    heads.push(make("th", { scope: "col", class: column.number && "number" }, make("button", { type: "button", onclick: order, text: column.title })));
  }
  const table = make("table", { class: "board" }, make("thead", {}, make("tr", {}, heads)), body);
  return { element: scrolling(`Ranks of protocol ${board.fingerprint}`, table), refill };
}

function rowOf(row, columns) {
  const cells = columns.map((column) => make(column.head ? "th" : "td", { scope: column.head && "row", class: column.number ? "number" : column.look }, column.cell(row)));
  return make("tr", { class: row.kind === "reference" && "beside" }, cells);
}

function boardsView() {
  const boards = data.boards.map((board) => ({ board, ...boardTable(board) }));
  const count = make("p", { class: "soft small" });
  const sections = boards.map(({ board, element }) => make("section", { id: `protocol-${board.fingerprint}` },
    make("h2", {}, "Protocol ", make("code", { text: board.fingerprint })), make("p", { class: "small", text: `${board.about}.` }), element));
  const refill = () => {
    let models = 0, all = 0;
    boards.forEach(({ board, refill }, i) => {
      const matches = ["data", "track", "images"].every((key) => !filterState[key] || String(board[key] ?? "") === filterState[key]);
      const rows = matches ? shownRows(board).filter((row) => row.kind !== "reference").length : 0;
      sections[i].hidden = !rows;
      models += rows;
      all += board.rows.filter((row) => row.kind !== "reference").length;
      if (rows) refill();
    });
    count.textContent = filterState.each ? `Rows shown: ${formatInteger(models)}, one per run.` : `Rows shown: ${formatInteger(models)} of ${formatInteger(all)}. Runs that differ only in their seed share a row.`;
    announce(count.textContent);
  };
  refill();
  return [
    make("h1", { text: "Leaderboards" }),
    make("p", { text: "Ranks hold only within one protocol: training data, budget, matched cost and evaluation. Each protocol has its own table." }),
    filters(refill), count, ...(sections.length ? sections : [make("p", { text: "No run has finished yet." })]), unfinishedRuns(), rowNotes(),
  ];
}

function filters(refill) {
  const values = (key) => [...new Set(data.boards.map((board) => String(board[key] ?? "")))].filter(Boolean).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const archs = [...new Set(data.boards.flatMap((b) => b.rows.map((row) => row.arch)))].filter(Boolean).sort();
  const pick = (key) => (value) => { filterState[key] = value; refill(); };
  const words = make("input", { type: "search", oninput: () => pick("words")(words.value) });
  words.value = filterState.words;
  const each = make("input", { type: "checkbox", onchange: () => pick("each")(each.checked) });
  each.checked = filterState.each;
  return make("form", { class: "controls", "aria-label": "Filters", onsubmit: (event) => event.preventDefault() },
    choice("data", values("data"), filterState.data, pick("data")),
    choice("track", values("track"), filterState.track, pick("track")),
    choice("budget, images", values("images"), filterState.images, pick("images")),
    choice("architecture", archs, filterState.arch, pick("arch")),
    make("label", {}, "model name contains", words),
    make("label", { class: "check" }, each, "one row per run"));
}

function unfinishedRuns() {
  if (!data.failed.length) return null;
  const rows = data.failed.map((run) => make("tr", {}, make("th", { scope: "row" }, runLink(run.id, run.model)),
    make("td", { text: run.data }), make("td", { text: run.status }), make("td", { class: "number", text: run.images }),
    make("td", { class: "words", text: run.error }), make("td", { text: run.seed ?? "" }), make("td", { text: run.date })));
  return make("section", {}, make("h2", { text: "Did not finish" }), make("p", { text: "These runs are neither ranked nor averaged." }),
    scrolling("Runs that did not finish", make("table", {}, headsOf(["model", "data", "status", "images", "error", "seed", "date"], [3]), make("tbody", {}, rows))));
}

const rowNotes = () => make("section", {}, make("h2", { text: "How to read a row" }), make("ul", { class: "notes small" }, data.notes.map((text) => make("li", { text }))));
