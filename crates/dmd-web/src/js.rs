//! What JavaScript sees. Every error is an `Error` with the library's sentence.

use std::time::Duration;

use js_sys::{Map, Uint8Array};
use wasm_bindgen::Clamped;
use wasm_bindgen::prelude::{JsCast, JsError, JsValue, wasm_bindgen};

use crate::Error;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn console_error(text: &str);
}

/// A panic says on the console what happened and where, before it ends the module as a `RuntimeError`.
#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|panic| console_error(&format!("dmd: {panic}"))));
}

/// An opened model, which draws.
#[wasm_bindgen]
pub struct Drawer(crate::Drawer);

#[wasm_bindgen]
impl Drawer {
    /// Opens the small model in the module.
    #[cfg(feature = "embedded")]
    #[wasm_bindgen(constructor)]
    pub fn new() -> Result<Drawer, JsError> {
        crate::Drawer::embedded().map(Self).map_err(thrown)
    }

    /// Opens a model by its files: a `Map` of names such as `vae/config.json` and their bytes, each a `Uint8Array`.
    #[wasm_bindgen(js_name = fromFiles)]
    pub fn from_files(model: &str, files: &Map) -> Result<Drawer, JsError> {
        let mut read = Vec::new();
        let mut wrong = None;
        files.for_each(&mut |bytes: JsValue, name: JsValue| match (
            name.as_string(),
            bytes.dyn_ref::<Uint8Array>(),
        ) {
            (Some(name), Some(bytes)) => read.push((name, bytes.to_vec())),
            (_, _) => wrong = Some(name.as_string().unwrap_or_else(|| format!("{name:?}"))),
        });
        if let Some(name) = wrong {
            return Err(thrown(Error::File { name }));
        }
        crate::Drawer::from_files(model, read).map(Self).map_err(thrown)
    }

    /// Width of its pictures in pixels.
    #[wasm_bindgen(getter)]
    pub fn width(&self) -> usize {
        self.0.size().0
    }

    /// Height of its pictures in pixels.
    #[wasm_bindgen(getter)]
    pub fn height(&self) -> usize {
        self.0.size().1
    }

    /// Draws a picture of a prompt and a seed, a whole number from 0.
    pub fn draw(&self, prompt: &str, seed: f64) -> Result<Picture, JsError> {
        self.0.draw(prompt, seed).map(Picture).map_err(thrown)
    }
}

/// A picture.
#[wasm_bindgen]
pub struct Picture(crate::Picture);

#[wasm_bindgen]
impl Picture {
    /// Width in pixels.
    #[wasm_bindgen(getter)]
    pub fn width(&self) -> u32 {
        self.0.image().width()
    }

    /// Height in pixels.
    #[wasm_bindgen(getter)]
    pub fn height(&self) -> u32 {
        self.0.image().height()
    }

    /// The pixels row by row, red, green, blue and 255 each, as `ImageData` takes them.
    #[wasm_bindgen(getter)]
    pub fn pixels(&self) -> Clamped<Vec<u8>> {
        Clamped(self.0.rgba())
    }

    /// The bytes of a PNG file with the parameters inside.
    pub fn png(&self) -> Result<Vec<u8>, JsError> {
        self.0.png().map_err(thrown)
    }

    /// Prompt, seed and the other settings as text.
    #[wasm_bindgen(getter)]
    pub fn parameters(&self) -> String {
        self.0.parameters().to_owned()
    }

    /// Milliseconds from the prompt to text features.
    #[wasm_bindgen(getter, js_name = textMs)]
    pub fn text_ms(&self) -> f64 {
        milliseconds(self.0.timings().text)
    }

    /// Milliseconds from noise to latents.
    #[wasm_bindgen(getter, js_name = denoisingMs)]
    pub fn denoising_ms(&self) -> f64 {
        milliseconds(self.0.timings().denoising)
    }

    /// Milliseconds from latents to pixels.
    #[wasm_bindgen(getter, js_name = decodingMs)]
    pub fn decoding_ms(&self) -> f64 {
        milliseconds(self.0.timings().decoding)
    }

    /// Milliseconds from prompt to pixels.
    #[wasm_bindgen(getter, js_name = totalMs)]
    pub fn total_ms(&self) -> f64 {
        milliseconds(self.0.timings().total())
    }
}

/// The exception of an error: its sentence, and those of its causes.
fn thrown(error: Error) -> JsError {
    let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
    JsError::new(&causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}")))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
