"use strict";
// Helpers to make elements and to format numbers, and the data of this page.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);

// Make an element: make("a", {href: "#x", text: "a link"}, child, ...).  Text is never parsed as HTML.
function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function makeSvg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "text") element.textContent = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined));
  return element;
}

const runLink = (id, text) => make("a", { href: `#run/${encodeURIComponent(id)}`, text });

// Tell screen readers what changed.
function announce(text) {
  byId("status").textContent = text;
}

const UNITS = ["", "k", "M", "G", "T", "P", "E", "Z", "Y"];

// Format 1,234,567 as "1.23 M".
function formatEngineering(value, digits = 3) {
  if (value === null || value === undefined) return "";
  if (value === 0) return "0";
  const power = Math.max(0, Math.min(UNITS.length - 1, Math.floor(Math.log10(Math.abs(value)) / 3 + 1e-9)));
  let scaled = Number((value / 1000 ** power).toPrecision(digits));
  const carried = Math.abs(scaled) >= 1000 && power < UNITS.length - 1;
  if (carried) scaled /= 1000;
  const unit = UNITS[power + (carried ? 1 : 0)];
  return `${formatNumber(scaled, digits)}${unit ? ` ${unit}` : ""}`;
}

// Format 0.000123 as "1.23e-4" and 12.3456 as "12.35".
function formatNumber(value, digits = 4) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return value.toExponential(digits - 1).replace("e+", "e");
  return String(Number(value.toPrecision(Math.max(digits, Math.ceil(Math.log10(size + 1))))));
}

const formatInteger = (value) => (value === null || value === undefined ? "" : value.toLocaleString("en"));
const formatFixed = (value) => (value === null || value === undefined ? "" : value.toFixed(3));

// The JSON text of a record, joined from the pieces that records share.
const recordText = (id) => data.records[id].map((piece) => data.pieces[piece]).join("");

let gridUris = null;

// The data URI of a run's sample grid, or null.
function gridUri(id) {
  gridUris ??= JSON.parse(byId("pictures").textContent);
  return gridUris[id] ?? null;
}

function scrolling(name, ...children) {
  return make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": name }, ...children);
}

// The head of a table; `right` are the indices of columns of numbers.
function headsOf(titles, right = []) {
  return make("thead", {}, make("tr", {}, titles.map((text, i) => make("th", { scope: "col", class: right.includes(i) && "number", text }))));
}

// A labelled select element; "" stands for all options.
function choice(title, options, value, onChoose, all = "all") {
  const select = make("select", { onchange: () => onChoose(select.value) });
  if (all) select.append(make("option", { value: "", text: all }));
  for (const option of options) select.append(make("option", { value: option, text: option }));
  select.value = value;
  return make("label", {}, title, select);
}
