// The review page. No library, no network but this server's own endpoints.

import { unlock } from "./unlock.js";

const AT_ONCE = 60; // photographs on a page

const byId = (id) => document.getElementById(id);
const grid = byId("grid");
const FILTERS = ["label", "split", "source", "state", "order", "text"];
let token = takeToken();
let facts = null;
let items = []; // of this page
let total = 0; // of the view
let offset = 0;
let version = Date.now(); // of the view: a new one is a new list
let current = 0;
let pictures = []; // object URLs to give back
let work = Promise.resolve(); // keys are worked off one by one: a decision is on disk before the next one begins
let heated = false;
let learned = 0; // how often the model has, as what is shown here knows it

for (const id of FILTERS) byId(id).addEventListener(id === "text" ? "change" : "input", () => queue(() => show(0, true)));
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("previous").addEventListener("click", () => queue(() => turn(-1)));
byId("next").addEventListener("click", () => queue(() => turn(1)));
byId("no-name").addEventListener("click", () => byId("naming").close());
byId("naming").querySelector("form").addEventListener("submit", () => {
  const name = byId("name").value.trim();
  if (name) queue(() => decide("class", name));
});
byId("zoom").addEventListener("close", () => {
  heated = false;
  document.body.append(byId("actions"));
  focus(current);
});
document.addEventListener("keydown", pressed);
document.addEventListener("click", clicked);
queue(start);

// The address that was printed ends in #token=...; kept until the tab is closed, and not in its history.
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  return given ?? sessionStorage.getItem("token") ?? "";
}

function queue(step) {
  work = work.then(step).then(() => { byId("problem").textContent = ""; }).catch((error) => {
    byId("problem").textContent = error.message;
  });
}

async function start() {
  facts = await json("facts");
  byId("about").textContent = facts.about + (facts.model ? ` What a model says: ${facts.model}.` : "")
    + ` Decisions are written as ${facts.who}'s.`;
  options("split", facts.splits);
  options("source", facts.sources);
  byId("heat").hidden = !facts.heat;
  progress(facts);
  await show(0, true);
}

function options(id, values) {
  const chosen = byId(id).value;
  byId(id).replaceChildren(new Option("all", ""), ...values.map((value) => new Option(value, value)));
  byId(id).value = values.includes(chosen) ? chosen : "";
  byId(id).parentElement.hidden = values.length < 2;
}

function read(from) {
  const view = Object.fromEntries(FILTERS.map((id) => [id, byId(id).value]));
  return post(`items?offset=${from}&limit=${AT_ONCE}`, { ...view, version });
}

async function show(from, fresh = false, at = 0) {
  if (fresh) version += 1;
  const found = await read(from);
  for (const url of pictures) URL.revokeObjectURL(url);
  pictures = [];
  ({ items, total, learned } = found);
  offset = from;
  progress(found);
  grid.replaceChildren(...items.map(tile));
  byId("place").textContent = total ? `${offset + 1} to ${offset + items.length} of ${total.toLocaleString("en")}` : "";
  byId("previous").disabled = !offset;
  byId("next").disabled = offset + items.length >= total;
  byId("status").textContent = total ? "" : "No photograph is like that.";
  focus(at < 0 ? items.length - 1 : at);
}

function tile(item, index) {
  const option = document.createElement("div");
  option.className = "item";
  option.role = "option";
  option.tabIndex = -1;
  option.setAttribute("aria-selected", "false");
  option.dataset.index = index;
  const picture = document.createElement("img");
  picture.alt = "";
  option.append(picture, text("p", "", "name"), text("p", "", "facts"), text("p", "", "why"), text("p", "", "decided"));
  option.addEventListener("focus", () => { current = index; roving(); });
  describe(option, item);
  load(`picture/${item.hash}`).then((url) => { picture.src = url; }).catch((error) => {
    picture.replaceWith(text("div", error.message, "missing"));
  });
  return option;
}

function describe(option, item) {
  const part = (name) => option.querySelector(`.${name}`);
  part("name").textContent = `${item.label || "no class yet"} · ${item.file}`;
  part("facts").textContent = [said(item), item.split, item.flags].filter(Boolean).join(" · ");
  part("why").textContent = item.reason;
  part("decided").textContent = decided(item);
  part("decided").hidden = !item.decision;
}

function said(item) {
  if (item.hidden) return "model: hidden until you decide";
  return item.says ? `model: ${item.says.label} ${percent(item.says.confidence)}` : "";
}

function decided(item) {
  if (!item.decision) return "";
  const { decision, label, who } = item.decision;
  const what = { keep: `kept as ${label}`, class: `now ${label}`, drop: "dropped", unsure: "unsure" }[decision];
  return `${what} (${who})`;
}

function progress({ queue: count, decided: done, changed, classes, suggestions }) {
  byId("bar").max = Math.max(1, count);
  byId("bar").value = done;
  byId("count").textContent = `${done.toLocaleString("en")} of ${count.toLocaleString("en")}, ${changed} changed`;
  byId("suggestions").textContent = suggestions;
  byId("suggestions").hidden = !suggestions;
  if (byId("known").children.length === classes.length && classes.length) return;
  facts.classes = classes;
  options("label", classes);
  byId("known").replaceChildren(...classes.map((name) => new Option(name)));
  byId("classes").replaceChildren(...classes.slice(0, 9).map((name, index) => {
    const button = text("button", `${name} `);
    button.type = "button";
    button.dataset.key = index + 1;
    button.append(text("kbd", index + 1));
    return button;
  }));
}

function tiles() {
  return [...grid.children];
}

function roving() {
  for (const [index, option] of tiles().entries()) option.tabIndex = index === current ? 0 : -1;
}

function focus(index) {
  current = Math.max(0, Math.min(index, items.length - 1));
  roving();
  if (byId("zoom").open) zoom();
  else if (!byId("naming").open) grid.children[current]?.focus();
}

function selected() {
  const chosen = tiles().filter((option) => option.getAttribute("aria-selected") === "true");
  return chosen.length ? chosen.map((option) => Number(option.dataset.index)) : items.length ? [current] : [];
}

function select(option, value) {
  option?.setAttribute("aria-selected", String(value ?? option.getAttribute("aria-selected") !== "true"));
  const count = grid.querySelectorAll('[aria-selected="true"]').length;
  byId("status").textContent = count ? `${count} selected` : "";
}

function pressed(event) {
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) || byId("naming").open;
  if (typing || event.altKey || (event.ctrlKey || event.metaKey) && event.key !== "z") return;
  if (event.target.tagName === "BUTTON" && ["Enter", " "].includes(event.key)) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "Escape" && document.querySelector("dialog[open]")) return; // the browser closes it
  const step = action(key, event.shiftKey);
  if (!step) return;
  event.preventDefault();
  queue(step);
}

function clicked(event) {
  const button = event.target.closest("[data-key]");
  if (button) {
    const step = action(button.dataset.key);
    if (step) queue(step);
    return;
  }
  const option = event.target.closest(".item");
  if (!option) return;
  if (event.ctrlKey || event.metaKey) select(option);
  else if (event.detail === 2) queue(zoom);
}

// What a key does, as a step for the queue; nothing for other keys.
function action(key, shift = false) {
  const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  if (by) return () => move(current + by, shift);
  if (key >= "1" && key <= "9") return facts?.classes[key - 1] && (() => decide("class", facts.classes[key - 1]));
  return {
    Home: () => move(0, shift), End: () => move(items.length - 1, shift),
    PageDown: () => turn(1), PageUp: () => turn(-1), n: () => turn(1), p: () => turn(-1),
    k: () => decide("keep"), d: () => decide("drop"), u: () => decide("unsure"), z: undo,
    t: name, x: () => select(grid.children[current]), " ": () => select(grid.children[current]), a: selectAll,
    Enter: zoom, h: heat, "?": () => byId("help").showModal(), Escape: close,
  }[key];
}

async function move(to, selecting) {
  if (to < 0 && offset) return show(Math.max(0, offset - AT_ONCE), false, -1);
  if (to >= items.length && offset + items.length < total) return show(offset + AT_ONCE);
  if (selecting) {
    const [first, last] = [current, Math.max(0, Math.min(to, items.length - 1))].sort((a, b) => a - b);
    for (let index = first; index <= last; index += 1) select(grid.children[index], true);
  }
  return focus(to);
}

async function turn(by) {
  const to = offset + by * AT_ONCE;
  if (to >= 0 && to < total) await show(to);
}

async function decide(decision, label = "") {
  const chosen = selected();
  if (!chosen.length) return;
  const hashes = chosen.map((index) => items[index].hash);
  const found = await post("decisions", { hashes, decision, label });
  if (found.learned !== learned) found.items = (await read(offset)).items; // the model says more of all of these
  update(found);
  for (const option of tiles()) option.setAttribute("aria-selected", "false");
  const first = items[chosen[0]];
  const what = chosen.length > 1 ? `${chosen.length} photographs` : first.file;
  byId("status").textContent = `${what}: ${decided(first)}. ${byId("count").textContent}.`;
  const next = items.findIndex((item, index) => index > chosen.at(-1) && !item.decision);
  if (next >= 0) focus(next);
  else if (offset + items.length < total) await show(offset + AT_ONCE);
  else focus(chosen.at(-1));
}

async function undo() {
  const found = await post("undo", {});
  update(found);
  const place = items.findIndex((item) => item.hash === found.items[0].hash);
  byId("status").textContent = `Undone: ${found.items.length > 1 ? `${found.items.length} photographs` : found.items[0].file}.`
    + ` ${byId("count").textContent}.`;
  if (place >= 0) focus(place);
}

function update(found) {
  learned = found.learned;
  progress(found);
  for (const item of found.items) {
    const place = items.findIndex((other) => other.hash === item.hash);
    if (place < 0) continue;
    items[place] = item;
    describe(grid.children[place], item);
  }
}

async function name() {
  if (!items.length) return;
  byId("name").value = "";
  byId("naming").showModal();
  byId("name").focus();
}

async function selectAll() {
  const none = tiles().every((option) => option.getAttribute("aria-selected") === "true");
  for (const option of tiles()) select(option, !none);
}

async function close() {
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  for (const option of tiles()) select(option, false);
}

async function zoom() {
  const item = items[current];
  if (!item) return;
  if (!byId("zoom").open) {
    byId("zoom").showModal();
    byId("zoom").append(byId("actions")); // what lies outside of an open dialog cannot be clicked
  }
  heated = heated && !item.hidden;
  byId("zoom-title").textContent = `${item.label || "no class yet"} · ${item.file}`;
  byId("zoom-facts").textContent = [said(item), item.split, item.flags, item.source, item.reason, decided(item)]
    .filter(Boolean).join(" · ");
  byId("heat").disabled = item.hidden;
  byId("heat").setAttribute("aria-pressed", String(heated));
  const picture = byId("zoom-picture");
  picture.alt = heated ? "Heat map of the photograph: where the model looks" : `The photograph ${item.file}`;
  const url = await load(heated ? `heat/${item.hash}` : `picture/${item.hash}?size=full`);
  if (items[current] === item) picture.src = url;
}

async function heat() {
  if (!facts.heat || items[current]?.hidden) return;
  heated = !heated || !byId("zoom").open;
  await zoom();
}

async function request(path, options = {}) {
  for (;;) {
    const shown = token;
    let response;
    try {
      response = await fetch(path, { ...options, headers: { ...options.headers, Authorization: `Bearer ${shown}` } });
    } catch {
      throw new Error("The server does not answer. Nothing more is decided; is `pawprint review` still running?");
    }
    if (response.ok) return response;
    if (response.status === 401) {
      if (shown === token) token = await unlock(shown ? "This token is not known here." : "");
      continue;
    }
    const problem = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
    throw new Error(problem.error);
  }
}

async function json(path, options) {
  return (await request(path, options)).json();
}

function post(path, body) {
  return json(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

async function load(path) {
  const url = URL.createObjectURL(await (await request(path)).blob());
  pictures.push(url);
  return url;
}

function text(tag, content, className = "") {
  const element = document.createElement(tag);
  element.textContent = content;
  element.className = className;
  return element;
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}
