// Navigation: the part of the address after # selects the view.

// matplotlib has drawn the figures; the view copies them from a template.
const figuresView = () => [byId("figures").content.cloneNode(true)];

const commandsOf = (text) => (text ? make("details", {}, make("summary", { text: "Commands for the missing runs" }), make("pre", { tabindex: "0", text })) : null);

const VIEWS = { leaderboards: boardsView, scaling: figuresView, tables: tablesView, samples: samplesView, run: runView };

function showView() {
  const [part, argument = ""] = location.hash.slice(1).split(/\/(.*)/s);
  const name = part in VIEWS ? part : "leaderboards";
  let about = argument;
  try { about = decodeURIComponent(argument); } catch { /* not a valid encoding: use it unchanged */ }
  byId("main").replaceChildren(...VIEWS[name](about).flat().filter(Boolean));
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const heading = byId("main").querySelector("h1");
  document.title = `${heading.textContent} · backbone bench`;
  return { heading, place: about && ["leaderboards", "scaling"].includes(name) ? document.querySelector(`[id$="-${CSS.escape(about)}"]`) : null };
}

function navigate() {
  const { heading, place } = showView();
  heading.setAttribute("tabindex", "-1");
  heading.focus({ preventScroll: true });
  if (place) place.scrollIntoView();
  else scrollTo(0, 0);
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
addEventListener("hashchange", navigate);
const { place: firstPlace } = showView();
firstPlace?.scrollIntoView();
document.documentElement.dataset.ready = "yes";
