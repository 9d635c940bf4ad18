const at = (id) => document.getElementById(id);
const KEPT = 24;

const worker = new Worker("worker.js", { type: "module" });
/** What the worker draws now, and what it is asked for next; in between nothing waits. */
let drawn = null;
let wanted = null;
/** What the newest picture of the history shows. */
let last = null;
let later = null;

function say(text) {
  at("status").textContent = text;
}

function settings() {
  // An empty field is no number, and the library says what a seed has to be.
  return { prompt: at("prompt").value, seed: at("seed").valueAsNumber };
}

const same = (one, other) => one && other && one.prompt === other.prompt && Object.is(one.seed, other.seed);

function changed() {
  wanted = settings();
  clearTimeout(later);
  at("picture").classList.add("old");
  const link = new URLSearchParams({ prompt: wanted.prompt, seed: at("seed").value });
  history.replaceState(null, "", `?${link}`);
  if (!drawn) next();
}

function next() {
  drawn = wanted;
  worker.postMessage(drawn);
}

function show({ png, totalMs, textMs, denoisingMs, decodingMs }) {
  const blob = new Blob([png], { type: "image/png" });
  const url = URL.createObjectURL(blob);
  const image = at("picture");
  const before = at("save").href;
  image.src = url;
  image.alt = drawn.prompt;
  image.classList.toggle("old", !same(drawn, wanted));
  at("times").textContent = `1 step: ${totalMs.toFixed(0)} ms (text ${textMs.toFixed(0)}, `
    + `UNet ${denoisingMs.toFixed(0)}, picture ${decodingMs.toFixed(0)})`;
  at("save").href = url;
  at("save").hidden = false;
  if (before) URL.revokeObjectURL(before);
  say("");
  if (same(drawn, wanted) && !same(drawn, last)) later = setTimeout(remember, 800, blob, drawn);
}

/** A picture that stood for a moment goes into the list of earlier ones. */
function remember(blob, shown) {
  last = shown;
  const image = document.createElement("img");
  image.src = URL.createObjectURL(blob);
  image.alt = `${shown.prompt}, seed ${shown.seed}`;
  const button = document.createElement("button");
  button.type = "button";
  button.title = image.alt;
  button.append(image);
  button.addEventListener("click", () => {
    at("prompt").value = shown.prompt;
    at("seed").value = shown.seed;
    changed();
  });
  const item = document.createElement("li");
  item.append(button);
  const list = at("history");
  list.prepend(item);
  while (list.children.length > KEPT) {
    URL.revokeObjectURL(list.lastElementChild.querySelector("img").src);
    list.lastElementChild.remove();
  }
}

function failed(reason) {
  at("progress").hidden = true;
  say(`The page cannot draw: ${reason}. Load it again, or try another browser: it needs WebAssembly with SIMD.`);
}

worker.addEventListener("message", ({ data }) => {
  if (data.failed) return failed(data.failed);
  if (data.loaded) {
    if (data.whole) at("progress").max = data.whole;
    if (data.whole) at("progress").value = data.loaded;
    return say(`Loading the model: ${(data.loaded / 1e6).toFixed(1)} MB`);
  }
  if (data.ready) {
    at("progress").hidden = true;
    return;
  }
  if (data.error) say(data.error);
  else show(data);
  if (same(drawn, wanted)) drawn = null;
  else next();
});
worker.addEventListener("error", (event) => failed(event.message || "worker.js cannot be started"));

for (const id of ["prompt", "seed"]) at(id).addEventListener("input", changed);
at("dice").addEventListener("click", () => {
  at("seed").value = Math.floor(Math.random() * 2 ** 32);
  changed();
});
const address = new URLSearchParams(location.search);
for (const id of ["prompt", "seed"]) if (address.has(id)) at(id).value = address.get(id);
say("Loading the model.");
changed();
