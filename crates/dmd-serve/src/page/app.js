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
  return {
    prompt: at("prompt").value, seed: number("seed") ?? 0, width: number("width"), height: number("height"),
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
  const same = last && ["prompt", "seed", "width", "height"].every((key) => last[key] === body[key]);
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
