// Sample grids side by side: one column per model, one row per seed.

let chosenBoard = "";

function samplesView() {
  const has = (row) => row.runs.some((id) => data.pictures.embedded.includes(id));
  const boards = data.boards.filter((board) => board.rows.some(has));
  const heading = [make("h1", { text: "Samples" }), make("p", { text: samplesNote() })];
  if (!boards.length) return heading;
  const board = boards.find((b) => b.fingerprint === chosenBoard) ?? boards[0];
  const grids = make("div");
  const names = new Map(boards.map((b) => [`${b.data}, ${formatEngineering(b.images ?? 0)} images, ${b.equal} (${b.fingerprint})`, b]));
  const chosen = [...names].find(([, b]) => b === board)[0];
  const refresh = () => grids.replaceChildren(...gridsOf(boards.find((b) => b.fingerprint === chosenBoard) ?? board, has));
  const pick = choice("protocol", names.keys(), chosen, (name) => { chosenBoard = names.get(name).fingerprint; refresh(); }, "");
  refresh();
  return [...heading, make("form", { class: "controls", "aria-label": "Which samples" }, pick), grids];
}

function samplesNote() {
  const { embedded, total, limit } = data.pictures;
  if (!total) return "There are no sample grids in results/samples/ yet.";
  const words = "Each column of a grid is one class. The samples are not selected: image i comes from seed i.";
  return embedded.length === total ? words : `${words} This file has ${embedded.length} of the ${total} grids in results/samples/ (at most ${limit}), with one of each model first.`;
}

function gridsOf(board, has) {
  const rows = board.rows.filter(has);
  const seeds = [...new Set(rows.flatMap((row) => row.runs.map((id) => data.runs[id].seed)))].sort((a, b) => a - b);
  const grid = make("div", { class: "wall", role: "table", "aria-label": "Samples by seed and model" });
  if (rows.length <= 3) grid.style.setProperty("--tile", "min(22rem, 75vw)");
  grid.style.gridTemplateColumns = `max-content repeat(${rows.length}, var(--tile))`;
  const head = make("div", { role: "row" }, make("div", { role: "columnheader", class: "axis", text: "seed" }),
    rows.map((row) => make("div", { role: "columnheader", class: "axis", text: row.label })));
  const lines = seeds.map((seed) => make("div", { role: "row" }, make("div", { role: "rowheader", class: "axis", text: seed ?? "–" }),
    rows.map((row) => make("div", { role: "cell" }, tile(row, seed, board)))));
  for (const line of [head, ...lines]) line.style.display = "contents";
  grid.append(head, ...lines);
  return [make("p", { class: "small", text: `${board.about}.` }), scrolling("Samples side by side", grid)];
}

function tile(row, seed, board) {
  const id = row.runs.find((one) => data.runs[one].seed === seed);
  if (!id) return make("div", { class: "absent", text: "–" });
  if (!data.pictures.embedded.includes(id)) return make("figure", {}, make("div", { class: "absent" }, "not in this file: ", runLink(id, "the run")));
  const best = board.metrics[0]?.name, value = JSON.parse(recordText(id)).metrics[best]?.value;
  const caption = value === undefined ? "the run" : `${board.metrics[0].title} ${formatFixed(value)}`;
  return make("figure", {}, lazyImage(id, `Samples of ${row.label}, seed ${seed}, one class per column`), make("figcaption", {}, runLink(id, caption)));
}

const imageObserver = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    target.src = gridUri(target.dataset.run);
    imageObserver.unobserve(target);
  }
}, { rootMargin: "400px" });

// An image that is decoded when it comes near the screen.
function lazyImage(id, alt) {
  const image = make("img", { alt, "data-run": id, loading: "lazy", decoding: "async", width: data.pictures.size[id]?.[0], height: data.pictures.size[id]?.[1] });
  imageObserver.observe(image);
  return image;
}
