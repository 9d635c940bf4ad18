"use strict";

const at = (id) => document.getElementById(id);
const fields = ["prompt", "seed", "width", "height", "teacher", "steps", "guidance"];

/** The newest request of each picture; an older one is given up. */
const running = { one: null, many: null };
/** Addresses of pictures in this page's memory, which are given back when they are replaced. */
const shown = { one: null, many: null };
let model = null;
let later = null;
/** What the newest picture of the history shows. */
let last = null;
const KEPT = 24;

function headers(accept) {
  const all = { "Content-Type": "application/json", Accept: accept };
  const token = at("token").value;
  if (token) all.Authorization = "Bearer " + token;
  return all;
}

function say(text) {
  at("status").textContent = text;
}

function settings() {
  const number = (id) => (at(id).value === "" ? undefined : Number(at(id).value));
  const sliders = [...at("loras").querySelectorAll("input")];
  return {
    prompt: at("prompt").value, seed: number("seed") ?? 0, width: number("width"), height: number("height"),
    loras: sliders.length ? Object.fromEntries(sliders.map((one) => [one.name, Number(one.value)])) : undefined,
  };
}

/** Draws into one of the two figures; gives up what is being drawn there. */
async function draw(which, body) {
  running[which]?.abort();
  const control = new AbortController();
  running[which] = control;
  at(which).classList.add("old");
  const start = performance.now();
  try {
    const response = await fetch("/generate", {
      method: "POST", headers: headers("image/png"), body: JSON.stringify(body), signal: control.signal,
    });
    if (response.status === 401) at("token-row").hidden = false;
    if (response.status === 429) {
      // The newest request tries again when there is room.
      const wait = 1000 * (Number(response.headers.get("retry-after")) || 1);
      setTimeout(() => { if (running[which] === control) draw(which, body); }, wait);
    }
    if (!response.ok) throw new Error((await sentence(response)) || response.statusText);
    const blob = await response.blob();
    if (running[which] !== control) return;
    show(which, blob, body, performance.now() - start, Number(response.headers.get("x-drawn-ms")));
    say("");
  } catch (error) {
    if (error.name !== "AbortError" && running[which] === control) say(error.message);
  }
}

async function sentence(response) {
  try {
    const { error } = await response.json();
    return typeof error === "string" ? error : error.message;
  } catch {
    return "";
  }
}

function show(which, blob, body, whole, drawn) {
  const url = URL.createObjectURL(blob);
  const image = at(which);
  image.onload = () => image.classList.toggle("small", image.naturalWidth < 256);
  image.src = url;
  image.alt = body.prompt;
  image.classList.remove("old");
  const steps = body.steps ?? model?.generator_steps ?? 50;
  at(which + "-says").textContent = `${steps} step${steps === 1 ? "" : "s"}: `
    + `${drawn.toFixed(1)} ms to draw, ${whole.toFixed(0)} ms until it was here`;
  const save = at(which + "-save");
  save.href = url;
  save.hidden = false;
  if (shown[which]) URL.revokeObjectURL(shown[which]);
  shown[which] = url;
  const key = (of) => JSON.stringify([of.prompt, of.seed, of.width, of.height, of.loras]);
  const same = last && key(last) === key(body);
  if (which === "one" && !same) {
    clearTimeout(later);
    later = setTimeout(() => remember(blob, body), 800);
  }
}

/** A picture that stood for a moment goes into the list of earlier ones. */
function remember(blob, body) {
  last = body;
  const url = URL.createObjectURL(blob);
  const item = document.createElement("li");
  const button = document.createElement("button");
  const image = document.createElement("img");
  image.src = url;
  image.alt = `${body.prompt}, seed ${body.seed}`;
  button.type = "button";
  button.title = `${body.prompt}, seed ${body.seed}`;
  button.append(image);
  button.addEventListener("click", () => {
    at("prompt").value = body.prompt;
    at("seed").value = body.seed;
    at("width").value = body.width ?? "";
    at("height").value = body.height ?? "";
    for (const [name, strength] of Object.entries(body.loras ?? {})) setLora(name, strength);
    changed();
  });
  item.append(button);
  const list = at("history");
  list.prepend(item);
  while (list.children.length > KEPT) {
    URL.revokeObjectURL(list.lastElementChild.querySelector("img").src);
    list.lastElementChild.remove();
  }
}

/** A slider for each LoRA that the server was started with. */
function sliders(loras) {
  const fields = at("loras");
  for (const label of [...fields.querySelectorAll("label")]) label.remove();
  for (const { name, strength } of loras) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    const shown = document.createElement("output");
    Object.assign(input, { type: "range", name, min: Math.min(-1, strength), max: Math.max(2, strength), step: 0.05 });
    input.addEventListener("input", () => {
      shown.textContent = Number(input.value).toFixed(2);
      changed();
    });
    label.append(name + " ", input, " ", shown);
    fields.append(label);
    setLora(name, strength);
  }
  fields.hidden = loras.length === 0;
}

function setLora(name, strength) {
  const input = [...at("loras").querySelectorAll("input")].find((one) => one.name === name);
  if (!input) return;
  input.value = strength;
  input.parentElement.querySelector("output").textContent = Number(input.value).toFixed(2);
}

let pause = null;

function changed() {
  const body = settings();
  clearTimeout(pause);
  running.many?.abort();
  if (body.prompt.trim() === "") {
    running.one?.abort();
    return say("Say what to draw.");
  }
  draw("one", body);
  const teacher = at("teacher").checked;
  at("teacher-figure").hidden = !teacher;
  if (!teacher) return;
  // The teacher is slow: it waits until nobody types.
  pause = setTimeout(() => {
    const guidance = at("guidance").value === "" ? undefined : Number(at("guidance").value);
    draw("many", { ...body, steps: Number(at("steps").value), guidance });
  }, 400);
}

async function open() {
  try {
    const response = await fetch("/models", { headers: headers("application/json") });
    if (response.status === 401) {
      at("token-row").hidden = false;
      return say(at("token").value ? "This is not the server's token." : "This server wants a token.");
    }
    if (!response.ok) throw new Error(await sentence(response));
    model = (await response.json()).models[0];
  } catch (error) {
    return say(error.message || "The server does not answer.");
  }
  document.title = `${model.name}: a picture while you type`;
  for (const side of ["width", "height"]) {
    if (at(side).value === "") at(side).value = model[side];
    at(side).max = model.limits.side;
  }
  at("steps").max = model.limits.steps;
  at("guidance").value ||= model.guidance;
  sliders(model.loras);
  at("teacher-row").hidden = !(model.teacher && model.generator_steps);
  changed();
}

for (const id of fields) at(id).addEventListener("input", changed);
at("token").addEventListener("change", open);
at("dice").addEventListener("click", () => {
  at("seed").value = Math.floor(Math.random() * 2 ** 32);
  changed();
});
open();
