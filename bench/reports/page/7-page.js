// Which part is shown: the address says, after its #.

function figuresView() {
  const heading = [make("h1", { text: "Scaling and trends" }), make("p", { text: "Point, tap, or use the arrow keys in a plot to read its values. Hollow marks are published numbers; they never share axes with measured ones." })];
  const shown = data.figures.filter((figure) => figure.panels.length), empty = data.figures.filter((figure) => !figure.panels.length);
  if (!data.figures.length) return [...heading, make("p", { text: "There are no figures yet." })];
  const list = make("ul", { class: "contents" }, shown.map((figure) => make("li", {}, make("a", { href: `#scaling/${figure.name}`, text: figure.title }))));
  const sections = shown.map((figure) => make("section", { id: `figure-${figure.name}` }, make("h2", { text: figure.title }), make("div", { class: "plots" }, figure.panels.map(plot)), commandsOf(figure.missing)));
  const rest = empty.length ? make("section", {}, make("h2", { text: "Not run yet" }), empty.map((figure) => make("div", {}, make("h3", { text: `${figure.title} (${figure.name})` }), commandsOf(figure.missing)))) : null;
  return [...heading, list, ...sections, rest];
}

const commandsOf = (text) => (text ? make("details", {}, make("summary", { text: "What runs the rest" }), make("pre", { tabindex: "0", text })) : null);

const VIEWS = { leaderboards: boardsView, scaling: figuresView, tables: tablesView, samples: samplesView, run: runView };

function shownPart() {
  const [part, argument = ""] = location.hash.slice(1).split(/\/(.*)/s);
  const name = part in VIEWS ? part : "leaderboards";
  let about = argument;
  try { about = decodeURIComponent(argument); } catch { /* as it is */ }
  byId("main").replaceChildren(...VIEWS[name](about).flat().filter(Boolean));
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const heading = byId("main").querySelector("h1");
  document.title = `${heading.textContent} · backbone bench`;
  return { heading, place: about && ["leaderboards", "scaling"].includes(name) ? document.querySelector(`[id$="-${CSS.escape(about)}"]`) : null };
}

function turn() {
  const { heading, place } = shownPart();
  heading.setAttribute("tabindex", "-1");
  heading.focus({ preventScroll: true });
  if (place) place.scrollIntoView();
  else scrollTo(0, 0);
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
addEventListener("hashchange", turn);
const { place: firstPlace } = shownPart();
firstPlace?.scrollIntoView();
document.documentElement.dataset.ready = "yes";
