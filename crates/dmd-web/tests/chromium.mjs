// Opens a page's folder in headless Chromium, as a person would: types prompts, and reads the pictures that it shows.
//
// node chromium.mjs FOLDER PROFILE SCREENSHOT, with the wishes on standard input: {"draws": [{"prompt", "seed"}]}.
// Prints {"pictures": [{"prompt", "times", "pixels", "waited"}], "link", "empty", "seed", "errors"} as JSON. The first wish comes by
// the page's address, the others are typed. Chromium is spoken to over two pipes, by the DevTools protocol.

import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

const [folder, profile, screenshot] = process.argv.slice(2);
const { draws } = JSON.parse(readFileSync(0, "utf8"));
const KINDS = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm" };

const server = createServer((request, response) => {
  const path = normalize(new URL(request.url, "http://localhost").pathname);
  const name = path === "/" ? "index.html" : path;
  try {
    const body = readFileSync(join(folder, name));
    response.writeHead(200, { "Content-Type": KINDS[extname(name)] ?? "application/octet-stream", "Content-Length": body.length });
    response.end(body);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const address = `http://127.0.0.1:${server.address().port}/`;

const browser = spawn("chromium", [
  "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
  `--user-data-dir=${profile}`, "about:blank",
], { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
const [, , , asks, answers] = browser.stdio;
const waiting = new Map();
/** What went wrong in the page or its worker, as the console says it. */
const errors = [];
let rest = "";
answers.setEncoding("utf8").on("data", (text) => {
  const messages = (rest + text).split("\0");
  rest = messages.pop();
  for (const message of messages.map((one) => JSON.parse(one))) {
    const { id, result, error, method, params } = message;
    if (method === "Runtime.exceptionThrown") errors.push(params.exceptionDetails.text);
    if (method === "Log.entryAdded" && params.entry.level === "error") errors.push(`${params.entry.text} ${params.entry.url ?? ""}`);
    if (!waiting.has(id)) continue;
    const [resolve, reject] = waiting.get(id);
    waiting.delete(id);
    if (error) reject(new Error(error.message));
    else resolve(result);
  }
});
browser.on("exit", (code) => {
  for (const [, reject] of waiting.values()) reject(new Error(`chromium ended with ${code}`));
  waiting.clear();
});
let count = 0;
function ask(method, params = {}, sessionId) {
  const id = ++count;
  asks.write(JSON.stringify({ id, method, params, sessionId }) + "\0");
  return new Promise((resolve, reject) => waiting.set(id, [resolve, reject]));
}

const { targetId } = await ask("Target.createTarget", { url: "about:blank" });
const { sessionId } = await ask("Target.attachToTarget", { targetId, flatten: true });
const page = (method, params) => ask(method, params, sessionId);

/** The value of an expression in the page, which may be a promise. */
async function value(expression) {
  const { result, exceptionDetails } = await page("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
  if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
  return result.value;
}

/** Waits until an expression is true in the page, and returns for how many milliseconds. */
async function until(expression) {
  const start = performance.now();
  while (!(await value(expression).catch(() => false))) {
    if (performance.now() - start > 120_000) throw new Error(`${expression} after 120 s: ${await value("document.body.innerText")}`);
    await new Promise((later) => setTimeout(later, 20));
  }
  return performance.now() - start;
}

const field = (id) => `document.getElementById(${JSON.stringify(id)})`;

/** Replaces the text of a field as a keyboard does. */
async function type(id, text) {
  await value(`${field(id)}.focus(), ${field(id)}.select()`);
  if (text === "") await page("Input.dispatchKeyEvent", { type: "keyDown", key: "Delete", code: "Delete", windowsVirtualKeyCode: 46 });
  else await page("Input.insertText", { text });
}

/** The pixels that the page shows and the bytes behind them, once it shows this prompt's. */
async function shown(prompt) {
  const waited = await until(`${field("picture")}.alt === ${JSON.stringify(prompt)} && ${field("picture")}.complete
    && !${field("picture")}.classList.contains("old")`);
  const [times, pixels] = await value(`(() => {
    const image = ${field("picture")};
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    return [${field("times")}.textContent, btoa(String.fromCharCode(...data))];
  })()`);
  return { prompt, times, pixels, waited };
}

/** Waits until so many pictures stood for a moment, and so joined the earlier ones. */
const remembered = (count) => until(`${field("history")}.children.length >= ${count}`);

try {
  await page("Runtime.enable");
  await page("Log.enable");
  await page("Page.enable");
  await page("Emulation.setDeviceMetricsOverride", { width: 640, height: 1000, deviceScaleFactor: 1, mobile: false });
  const [first, ...others] = draws;
  await page("Page.navigate", { url: `${address}?${new URLSearchParams({ prompt: first.prompt, seed: first.seed })}` });
  const pictures = [await shown(first.prompt)];
  await remembered(1);
  for (const { prompt, seed } of others) {
    await type("seed", String(seed));
    await type("prompt", prompt);
    pictures.push(await shown(prompt));
    await remembered(pictures.length);
  }
  const link = await value("location.search");
  const { data } = await page("Page.captureScreenshot", { format: "png" });
  writeFileSync(screenshot, Buffer.from(data, "base64"));
  await type("prompt", "");
  await until(`${field("status")}.textContent !== ""`);
  const empty = await value(`${field("status")}.textContent`);
  await type("prompt", first.prompt);
  await shown(first.prompt);
  await type("seed", "-1");
  await until(`${field("status")}.textContent !== ""`);
  const seed = await value(`${field("status")}.textContent`);
  console.log(JSON.stringify({ pictures, link, empty, seed, errors }));
} finally {
  await ask("Browser.close").catch(() => {});
  server.close();
}
