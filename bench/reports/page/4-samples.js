// Sample grids side by side: a column a model, a row a seed.

let chosenBoard = "";

function samplesView() {
  const has = (row) => row.runs.some((id) => data.pictures.there.includes(id));
  const boards = data.boards.filter((board) => board.rows.some(has));
  const heading = [make("h1", { text: "Samples" }), make("p", { text: picturesWords() })];
  if (!boards.length) return heading;
  const board = boards.find((b) => b.fingerprint === chosenBoard) ?? boards[0];
  const wall = make("div");
  const names = new Map(boards.map((b) => [`${b.data}, ${human(b.images ?? 0)} images, ${b.equal} (${b.fingerprint})`, b]));
  const chosen = [...names].find(([, b]) => b === board)[0];
  const again = () => wall.replaceChildren(...wallOf(boards.find((b) => b.fingerprint === chosenBoard) ?? board, has));
  const pick = choice("protocol", names.keys(), chosen, (name) => { chosenBoard = names.get(name).fingerprint; again(); }, "");
  again();
  return [...heading, make("form", { class: "controls", "aria-label": "Which samples" }, pick), wall];
}

function picturesWords() {
  const { there, of, limit } = data.pictures;
  if (!of) return "No run has left a grid of samples in results/samples/ yet.";
  const words = "The same class is the same column of each grid; nothing is picked, image i is made from seed i.";
  return there.length === of ? words : `${words} This file holds ${there.length} of the ${of} grids in results/samples/, up to ${limit}; one of each model comes first.`;
}

function wallOf(board, has) {
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
  if (!data.pictures.there.includes(id)) return make("figure", {}, make("div", { class: "absent" }, "not in this file: ", runLink(id, "the run")));
  const best = board.metrics[0]?.name, value = JSON.parse(recordText(id)).metrics[best]?.value;
  const caption = value === undefined ? "the run" : `${board.metrics[0].title} ${fixed(value)}`;
  return make("figure", {}, lazily(id, `Samples of ${row.label}, seed ${seed}, a class a column`), make("figcaption", {}, runLink(id, caption)));
}

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    target.src = picture(target.dataset.run);
    seen.unobserve(target);
  }
}, { rootMargin: "400px" });

// A picture that is decoded once it comes near the screen.
function lazily(id, alt) {
  const image = make("img", { alt, "data-run": id, loading: "lazy", decoding: "async", width: data.pictures.size[id]?.[0], height: data.pictures.size[id]?.[1] });
  seen.observe(image);
  return image;
}
