// The page of the service. No library, no network but this server's own endpoints.

const AT_ONCE = 2; // pictures on their way at a time; the rest wait here and not at the server
const TRIES = 5; // of a picture while the server says 503

const byId = (id) => document.getElementById(id);
const answers = byId("answers");
const drop = byId("drop");
const waiting = [];
let running = 0;
let card = null;
let token = sessionStorage.getItem("token") ?? ""; // kept until the tab is closed
let unlocked = null; // a promise, while a person is asked for the token

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
showCard();

function chosen(event) {
  take(event.target.files);
  event.target.value = ""; // the same file may be chosen again
}

function take(files) {
  for (const file of files) {
    const item = byId("answer").content.cloneNode(true).firstElementChild;
    const thumbnail = item.querySelector(".thumbnail");
    thumbnail.addEventListener("error", () => { thumbnail.parentElement.hidden = true; }); // a TIFF, or no picture
    thumbnail.src = URL.createObjectURL(file);
    thumbnail.alt = `The picture ${file.name}`;
    item.querySelector(".filename").textContent = file.name;
    item.querySelector(".label").textContent = "Waiting…";
    item.querySelector(".actions").hidden = true;
    answers.prepend(item);
    waiting.push({ file, item });
  }
  next();
}

function next() {
  while (running < AT_ONCE && waiting.length) {
    const { file, item } = waiting.shift();
    running += 1;
    answer(file, item).finally(() => { running -= 1; next(); });
  }
  const left = running + waiting.length;
  byId("status").textContent = left ? `${left} to go` : answers.children.length ? "All pictures are answered." : "";
}

async function answer(file, item) {
  try {
    show(file, item, await ask("predict", picture(file), (seconds) => {
      item.querySelector(".label").textContent = `The server is busy; trying again in ${seconds} s`;
    }));
  } catch (error) {
    item.classList.add("problem");
    item.querySelector(".label").textContent = "No answer";
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
      if (shown === token) await unlock(shown ? "This token is not known here." : "");
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

// Ends when a person has given another token; all requests that were turned away wait for the same one.
function unlock(problem) {
  const form = byId("unlock");
  byId("unlock-problem").textContent = problem;
  form.hidden = false;
  unlocked ??= new Promise((resolve) => {
    byId("token").focus();
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      token = byId("token").value.trim();
      sessionStorage.setItem("token", token);
      form.reset();
      form.hidden = true;
      unlocked = null;
      resolve();
    }, { once: true });
  });
  return unlocked;
}

function show(file, item, prediction) {
  const entries = Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]);
  const unknown = prediction.label === "unknown";
  item.querySelector(".label").textContent = unknown ? "Unknown" : prediction.label;
  if (unknown) reason(item, `Why: ${prediction.reason}.`);
  const bars = item.querySelector(".bars");
  for (const [name, share] of entries) {
    const row = document.createElement("li");
    const meter = document.createElement("meter");
    meter.value = share;
    meter.setAttribute("aria-label", name);
    row.append(text("span", name), meter, text("span", `${(100 * share).toFixed(1)} %`, "share"));
    bars.append(row);
  }
  item.querySelector(".actions").hidden = false;
  item.querySelector(".heat").addEventListener("click", (event) => heat(event.currentTarget, file, item));
  item.querySelector(".wrong").addEventListener("click", (event) => wrong(event.currentTarget, item, prediction));
}

async function heat(button, file, item) {
  const overlay = item.querySelector(".overlay");
  try {
    if (!overlay.src) {
      button.disabled = true;
      overlay.src = (await ask("explain", picture(file))).overlay;
      overlay.alt = "The same picture, coloured where the model looked";
    }
    overlay.hidden = !overlay.hidden;
    button.setAttribute("aria-pressed", String(!overlay.hidden));
    button.textContent = overlay.hidden ? "Show where it looked" : "Hide where it looked";
  } catch (error) {
    reason(item, error.message);
  } finally {
    button.disabled = false;
  }
}

// With two classes the right label is the other one, so one click says it; with more a person picks.
function wrong(button, item, prediction) {
  const others = Object.keys(prediction.probabilities).concat("unknown").filter((name) => name !== prediction.label);
  const choices = item.querySelector(".choices");
  if (others.length === 2 && prediction.label !== "unknown") {
    feedback(button, item, prediction, others[0]);
    return;
  }
  choices.replaceChildren(...others.map((name) => {
    const choice = text("button", `It is ${name}`);
    choice.type = "button";
    choice.addEventListener("click", () => feedback(choice, item, prediction, name));
    return choice;
  }));
  choices.hidden = false;
  choices.firstElementChild.focus();
}

async function feedback(button, item, prediction, label) {
  button.disabled = true;
  try {
    await ask("feedback", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ id: prediction.id, label }),
    });
    item.querySelector(".choices").hidden = true;
    item.querySelector(".wrong").hidden = true;
    reason(item, `Thank you. Noted as: ${label}.`);
    byId("status").textContent = `Thank you. Noted as: ${label}.`;
  } catch (error) {
    button.disabled = false;
    reason(item, error.message);
  }
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

async function showCard() {
  try {
    card = await ask("model", {});
  } catch (error) {
    byId("classes").textContent = error.message;
    return;
  }
  byId("classes").textContent = `Distinguishes ${card.classes.join(", ")}, and says when a picture is unlike all of them.`;
  const rows = {
    "Model": `${card.model.name || "not registered"}, version ${card.model.version || "none"}`,
    "Architecture": `${card.architecture}, ${card.parameters.toLocaleString("en")} parameters, ${card.precision} on ${card.device}`,
    "Photographs": `${card.model.dataset} (${card.model.data_hash})`,
    "Commit": card.model.git_commit || "none",
    "Training run": card.model.run_id || "none",
    "Trained on": card.lineage.device,
    "Bento": card.model.bento || "served from a checkout",
    "ONNX file": `SHA-256 ${card.model.digest}`,
    ...card.metrics,
  };
  byId("lineage").replaceChildren(...Object.entries(rows).flatMap(([name, value]) => [text("dt", name), text("dd", value)]));
}
