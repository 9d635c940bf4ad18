// Draws, in a thread of its own: the page stays free to be typed in.

import init, { Drawer } from "./dmd_web.js";

const drawer = open();

/** Fetches and compiles the module, and opens the model in it. */
async function open() {
  const start = performance.now();
  const response = await fetch("dmd_web_bg.wasm");
  if (!response.ok) throw new Error(`dmd_web_bg.wasm cannot be fetched: ${response.status} ${response.statusText}`);
  count(response.clone());
  await init({ module_or_path: response });
  const drawer = new Drawer();
  postMessage({ ready: performance.now() - start });
  return drawer;
}

/** Says how many bytes have come, and how many there will be where the server says it. */
async function count(response) {
  const packed = response.headers.has("content-encoding");
  const whole = packed ? 0 : Number(response.headers.get("content-length"));
  const reader = response.body.getReader();
  for (let loaded = 0, part; !(part = await reader.read()).done;) {
    loaded += part.value.length;
    postMessage({ loaded, whole });
  }
}

drawer.catch((error) => postMessage({ failed: String(error.message ?? error) }));

addEventListener("message", async ({ data: { prompt, seed } }) => {
  let picture;
  try {
    picture = (await drawer).draw(prompt, seed);
    const png = picture.png();
    const { textMs, denoisingMs, decodingMs, totalMs } = picture;
    postMessage({ prompt, seed, png, textMs, denoisingMs, decodingMs, totalMs }, [png.buffer]);
  } catch (error) {
    // A RuntimeError is a panic of the module, which cannot go on; the console says more.
    if (error instanceof WebAssembly.RuntimeError) postMessage({ failed: `the module stopped: ${error.message}` });
    else postMessage({ prompt, seed, error: error.message });
  } finally {
    picture?.free();
  }
});
