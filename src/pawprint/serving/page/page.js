// The page of the service. No library, no network but this server's own endpoints.

import { unlock } from "./unlock.js";

const AT_ONCE = 2; // photographs on their way at a time; the rest wait here and not at the server
const TRIES = 5; // of a photograph while the server says 503
const SHOWN = 5; // classes with a bar

const byId = (id) => document.getElementById(id);
const answers = byId("answers");
const drop = byId("drop");
const waiting = [];
let running = 0;
let card = null;
let about = null;
const rows = []; // what the CSV has: file, prediction or problem
let token = sessionStorage.getItem("token") ?? ""; // kept until the tab is closed

byId("files").addEventListener("change", chosen);
byId("camera").addEventListener("change", chosen);
document.addEventListener("paste", (event) => take(event.clipboardData.files));
document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take(event.dataTransfer.files);
});
byId("clear").addEventListener("click", clear);
byId("csv").addEventListener("click", download);
for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", () => copy(button));
showCard();

function chosen(event) {
  take(event.target.files);
  event.target.value = ""; // the same file may be chosen again
}

function take(files) {
  for (const file of files) {
    const item = byId("answer").content.cloneNode(true).firstElementChild;
    const thumbnail = item.querySelector(".thumbnail");
    thumbnail.addEventListener("error", () => { thumbnail.parentElement.hidden = true; }); // a TIFF, or no photograph
    thumbnail.src = URL.createObjectURL(file);
    thumbnail.alt = `The photograph ${file.name}`;
    item.querySelector(".filename").textContent = file.name;
    item.querySelector(".label").textContent = "Waiting…";
    item.querySelector(".actions").hidden = true;
    answers.append(item);
    const row = { name: file.name };
    rows.push(row);
    waiting.push({ file, item, row });
  }
  for (const id of ["csv", "clear"]) byId(id).hidden = !rows.length;
  next();
}

function next() {
  while (running < AT_ONCE && waiting.length) {
    const { file, item, row } = waiting.shift();
    running += 1;
    answer(file, item, row).finally(() => { running -= 1; next(); });
  }
  const left = running + waiting.length;
  byId("status").textContent = left ? `${left} to go` : answers.children.length ? "All photographs are classified." : "";
}

async function answer(file, item, row) {
  try {
    row.prediction = await ask("predict", picture(file), (seconds) => {
      item.querySelector(".label").textContent = `The server is busy; trying again in ${seconds} s`;
    });
    show(file, item, row.prediction);
  } catch (error) {
    row.problem = error.message;
    item.classList.add("problem");
    item.querySelector(".label").textContent = "No prediction";
    item.querySelector(".bars").hidden = true;
    reason(item, error.message);
  }
}

function picture(file) {
  const form = new FormData();
  form.append("image", file);
  return { method: "POST", body: form };
}

// The answer of an endpoint as an object; an Error with the server's own sentence where there is none.
async function ask(path, options, busy = () => {}) {
  for (let attempt = 1; ; attempt += 1) {
    let response;
    const shown = token;
    try {
      const headers = shown ? { ...options.headers, Authorization: `Bearer ${shown}` } : options.headers;
      response = await fetch(path, { ...options, headers });
    } catch {
      throw new Error("The server does not answer. Is it still running?");
    }
    if (response.status === 401) {
      if (shown === token) token = await unlock(shown ? "This token is not known here." : "");
      attempt = 0;
      continue;
    }
    if (response.status === 503 && attempt < TRIES) {
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      busy(seconds);
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
      continue;
    }
    const said = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
    if (!response.ok) throw new Error(said.error);
    return said;
  }
}

function show(file, item, prediction) {
  const entries = Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]);
  const refused = prediction.label === "unknown";
  item.classList.toggle("refused", refused);
  item.querySelector(".label").textContent = refused ? `Not sure: looks most like ${entries[0][0]}` : prediction.label;
  if (refused) reason(item, `${prediction.reason.charAt(0).toUpperCase()}${prediction.reason.slice(1)}.`);
  const bars = item.querySelector(".bars");
  for (const [name, share] of entries.slice(0, SHOWN)) {
    const row = document.createElement("li");
    const meter = document.createElement("meter");
    meter.value = share;
    meter.setAttribute("aria-label", name);
    row.append(text("span", name), meter, text("span", percent(share), "share"));
    bars.append(row);
  }
  if (entries.length > SHOWN) {
    const more = item.querySelector(".more");
    more.textContent = `${entries.length - SHOWN} more classes, each at most ${percent(entries[SHOWN][1])}`;
    more.hidden = false;
  }
  item.querySelector(".actions").hidden = false;
  item.querySelector(".heat").addEventListener("click", (event) => heat(event.currentTarget, file, item));
  item.querySelector(".right").hidden = refused;
  item.querySelector(".right").addEventListener("click", () => feedback(item, prediction, prediction.label));
  item.querySelector(".wrong").addEventListener("click", () => wrong(item, prediction));
  item.querySelector(".undo").addEventListener("click", () => feedback(item, prediction, ""));
}

async function heat(button, file, item) {
  const overlay = item.querySelector(".overlay");
  try {
    if (!overlay.src) {
      button.disabled = true;
      overlay.src = (await ask("explain", picture(file))).overlay;
      overlay.alt = "Class activation map: the same photograph, coloured where it counted for the class";
    }
    overlay.hidden = !overlay.hidden;
    button.setAttribute("aria-pressed", String(!overlay.hidden));
    button.textContent = overlay.hidden ? "Show activation map" : "Hide activation map";
  } catch (error) {
    reason(item, error.message);
  } finally {
    button.disabled = false;
  }
}

// With two classes the right label is the other one, so one click says it; with more a person picks.
function wrong(item, prediction) {
  const others = Object.keys(prediction.probabilities).concat("unknown").filter((name) => name !== prediction.label);
  if (others.length === 2 && prediction.label !== "unknown") {
    feedback(item, prediction, others[0]);
    return;
  }
  const form = item.querySelector(".choices");
  const select = form.querySelector("select");
  select.replaceChildren(...others.map((name) => new Option(name === "unknown" ? "none of the classes" : name, name)));
  form.onsubmit = (event) => { event.preventDefault(); feedback(item, prediction, select.value); };
  form.hidden = false;
  select.focus();
}

// An empty label takes back what was said before.
async function feedback(item, prediction, label) {
  const buttons = item.querySelectorAll(".said button");
  for (const button of buttons) button.disabled = true;
  try {
    await ask("feedback", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ id: prediction.id, label }),
    });
    const noted = item.querySelector(".noted");
    const sentence = label ? `Thank you. Noted as: ${label}.` : "Taken back.";
    noted.firstElementChild.textContent = sentence;
    noted.hidden = !label;
    item.querySelector(".choices").hidden = true;
    item.querySelector(".wrong").hidden = Boolean(label);
    item.querySelector(".right").hidden = Boolean(label) || prediction.label === "unknown";
    byId("status").textContent = sentence;
    for (const button of buttons) button.disabled = false;
    item.querySelector(label ? ".undo" : ".wrong").focus();
  } catch (error) {
    for (const button of buttons) button.disabled = false;
    reason(item, error.message);
  }
}

function clear() {
  for (const image of answers.querySelectorAll(".thumbnail")) URL.revokeObjectURL(image.src);
  waiting.length = 0;
  rows.length = 0;
  answers.replaceChildren();
  for (const id of ["csv", "clear"]) byId(id).hidden = true;
  byId("status").textContent = "Cleared.";
  byId("files").focus();
}

function download() {
  const cell = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
  const header = ["file", "label", "reason", "typicality", ...card.classes, "id", "problem"];
  const lines = rows.map(({ name, prediction: found, problem }) => [
    name.replace(/^[=+@-]/, "'$&"), // a name is no formula
    found?.label, found?.reason, found?.typicality, ...card.classes.map((one) => found?.probabilities[one]),
    found?.id, problem,
  ]);
  const csv = [header, ...lines].map((line) => line.map(cell).join(",")).join("\r\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", csv, "\r\n"], { type: "text/csv" })); // Excel wants the mark
  link.download = "predictions.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

async function copy(button) {
  await navigator.clipboard.writeText(byId(button.dataset.of).textContent);
  byId("status").textContent = "Copied.";
}

function reason(item, sentence) {
  const line = item.querySelector(".reason");
  line.textContent = sentence;
  line.hidden = false;
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

async function showCard() {
  const here = new URL(".", location.href).href;
  byId("curl").textContent = `curl -F image=@cat.jpg ${here}predict`;
  byId("python").textContent = `import httpx  # pip install httpx

with open("cat.jpg", "rb") as file:
    answer = httpx.post("${here}predict", files={"image": file}).raise_for_status().json()
print(answer["label"], answer["probabilities"])`;
  try {
    card = await ask("model", {});
    about = await ask("model/about", {});
  } catch (error) {
    byId("classes").textContent = error.message;
    return;
  }
  const named = card.classes.length > 12 ? `${card.classes.length} classes` : card.classes.join(", ");
  byId("classes").textContent = `Distinguishes ${named}, and says when a photograph is unlike all of them.`;
  byId("drawn").hidden = !about.drawn;
  showExamples();
  showFigures();
  byId("card-text").textContent = about.card;
  byId("card").hidden = !about.card;
  const facts = {
    "Model": `${card.model.name || "not registered"}, version ${card.model.version || "none"}`,
    "Architecture": `${card.architecture}, ${card.parameters.toLocaleString("en")} parameters, ${card.precision} on ${card.device}`,
    "Photographs": `${card.model.dataset} (${card.model.data_hash})`,
    "Commit": card.model.git_commit || "none",
    "Training run": card.model.run_id || "none",
    "Trained on": card.lineage.device,
    "Bento": card.model.bento || "served from a checkout",
    "Digest": `SHA-256 ${card.model.digest}`,
    ...card.metrics,
  };
  byId("lineage").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [text("dt", name), text("dd", value)]));
}

function showExamples() {
  for (const [number, { label, picture: source }] of about.examples.entries()) {
    const button = document.createElement("button");
    const image = document.createElement("img");
    image.src = source;
    image.alt = `Example ${number + 1}, ${label}`;
    button.type = "button";
    button.append(image);
    button.addEventListener("click", async () => {
      const bytes = Uint8Array.from(atob(source.split(",")[1]), (letter) => letter.charCodeAt(0));
      take([new File([bytes], `example ${number + 1} (${label}).jpg`, { type: "image/jpeg" })]);
    });
    byId("examples").append(button);
  }
  byId("examples").hidden = !about.examples.length;
}

function showFigures() {
  byId("figures").hidden = !about.photographs;
  if (!about.photographs) return;
  const { value, low, high } = about.accuracy;
  byId("accuracy").textContent = `${percent(value)} of ${about.photographs.toLocaleString("en")} test photographs were `
    + `classified correctly (95 % interval: ${percent(low)} to ${percent(high)}), before any is refused.`;
  const head = document.createElement("tr");
  head.append(text("th", "class \\ predicted"), ...card.classes.map((name) => scope(text("th", name), "col")));
  head.querySelectorAll("th").forEach((cell) => { cell.title = cell.textContent; }); // a long name is cut off
  const lines = about.confusion.map((counts, index) => {
    const line = document.createElement("tr");
    line.append(scope(text("th", card.classes[index]), "row"), ...counts.map((count, predicted) =>
      text("td", count, predicted === index ? "diagonal" : count ? "off" : "")));
    return line;
  });
  byId("confusion").replaceChildren(head, ...lines);
}

function scope(element, value) {
  element.scope = value;
  return element;
}
