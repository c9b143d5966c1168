"use strict";
// Elements, numbers in words, and the data of this page.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);

// make("a", {href: "#x", text: "there"}, child, ...): text is never read as HTML.
function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function draw(name, attributes = {}, ...children) {
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

function say(words) {
  byId("said").textContent = words;
}

const UNITS = ["", "k", "M", "G", "T", "P", "E", "Z", "Y"];

// 1,234,567 as 1.23 M.
function human(value, digits = 3) {
  if (value === null || value === undefined) return "";
  if (value === 0) return "0";
  const power = Math.max(0, Math.min(UNITS.length - 1, Math.floor(Math.log10(Math.abs(value)) / 3 + 1e-9)));
  let scaled = Number((value / 1000 ** power).toPrecision(digits));
  const carried = Math.abs(scaled) >= 1000 && power < UNITS.length - 1;
  if (carried) scaled /= 1000;
  const unit = UNITS[power + (carried ? 1 : 0)];
  return `${trimmed(scaled, digits)}${unit ? ` ${unit}` : ""}`;
}

// 0.000123 as 1.23e-4, 12.3456 as 12.3.
function trimmed(value, digits = 4) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return value.toExponential(digits - 1).replace("e+", "e");
  return String(Number(value.toPrecision(Math.max(digits, Math.ceil(Math.log10(size + 1))))));
}

const whole = (value) => (value === null || value === undefined ? "" : value.toLocaleString("en"));
const fixed = (value) => (value === null || value === undefined ? "" : value.toFixed(3));

// The text of a record, digit for digit as it was written, from the pieces that records share.
const recordText = (id) => data.records[id].map((piece) => data.pieces[piece]).join("");

let unpacked = null;
function picture(id) {
  unpacked ??= JSON.parse(byId("pictures").textContent);
  return unpacked[id] ?? null;
}

function scrolling(name, ...children) {
  return make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": name }, ...children);
}

// A table's head; `right` are the columns of numbers.
function headsOf(titles, right = []) {
  return make("thead", {}, make("tr", {}, titles.map((text, i) => make("th", { scope: "col", class: right.includes(i) && "number", text }))));
}

// A choice among words, "" for all of them.
function choice(title, options, value, chosen, all = "all") {
  const select = make("select", { onchange: () => chosen(select.value) });
  if (all) select.append(make("option", { value: "", text: all }));
  for (const option of options) select.append(make("option", { value: option, text: option }));
  select.value = value;
  return make("label", {}, title, select);
}
