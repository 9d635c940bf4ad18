// Draws in Node with the module of a page's folder, and prints what it drew as JSON.
//
// node node.mjs FOLDER, with the wishes on standard input:
// {"draws": [{"prompt", "seed"}], "files": {NAME: PATH}}; "files" are those of a model folder on the disk.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
const wishes = JSON.parse(readFileSync(0, "utf8"));
const module = await import(pathToFileURL(join(folder, "dmd_web.js")));
const start = performance.now();
const { memory } = module.initSync({ module: readFileSync(join(folder, "dmd_web_bg.wasm")) });
const drawer = new module.Drawer();
const opened = performance.now() - start;

const base64 = (bytes) => Buffer.from(bytes).toString("base64");

/** A picture, or the sentence of the exception that was thrown in its place. */
function tried(draw) {
  try {
    const picture = draw();
    const { width, height, parameters, textMs, denoisingMs, decodingMs, totalMs } = picture;
    const found = {
      width, height, parameters, ms: [textMs, denoisingMs, decodingMs, totalMs],
      pixels: base64(picture.pixels), png: base64(picture.png()),
    };
    picture.free();
    return found;
  } catch (error) {
    return { name: error.constructor.name, error: error.message };
  }
}

const embedded = wishes.draws.map(({ prompt, seed }) => tried(() => drawer.draw(prompt, seed)));
const bytes = Object.entries(wishes.files).map(([name, path]) => [name, new Uint8Array(readFileSync(path))]);
const fetched = tried(() => module.Drawer.fromFiles("own", new Map(bytes)).draw(wishes.draws[0].prompt, wishes.draws[0].seed));
const without = tried(() => module.Drawer.fromFiles("own", new Map(bytes.filter(([name]) => name !== "vae/config.json"))));
const text = tried(() => module.Drawer.fromFiles("own", new Map([["vae/config.json", "{}"]])));
const size = [drawer.width, drawer.height];
console.log(JSON.stringify({ opened, size, embedded, fetched, without, text, memory: memory.buffer.byteLength }));
