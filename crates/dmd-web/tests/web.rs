//! The drawer natively, and the module of a page in Node and in a browser against it. The latter needs the page's folder, which
//! `examples/web/build` makes, in the variable `DMD_WEB`; `.ci/web` runs both.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use dmd_web::{Drawer, Error};
use serde_json::{Value, json};

const DRAWS: [(&str, f64); 4] = [
    ("a black triangle", 123_456.0),
    ("a small yellow triangle left of a large purple circle", 0.0),
    ("a green square at the top", 4_294_967_296.0),
    ("a red circle above a blue square", 7.0),
];

/// The files of the embedded model as they lie in the repository, by their names.
fn files() -> BTreeMap<String, PathBuf> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/shapes");
    let parts = ["scheduler", "text_encoder", "tokenizer", "unet_one_step", "vae"];
    let mut files = BTreeMap::from([("model_index.json".to_owned(), model.join("model_index.json"))]);
    for part in parts {
        for entry in std::fs::read_dir(model.join(part)).unwrap() {
            let entry = entry.unwrap();
            files.insert(format!("{part}/{}", entry.file_name().to_str().unwrap()), entry.path());
        }
    }
    files
}

#[test]
fn a_model_given_as_bytes_draws_what_the_embedded_one_draws() {
    let bytes = files().into_iter().map(|(name, path)| (name, std::fs::read(path).unwrap()));
    let (embedded, own) = (Drawer::embedded().unwrap(), Drawer::from_files("own", bytes).unwrap());
    assert_eq!((own.size(), embedded.size()), ((64, 64), (64, 64)));
    let (prompt, seed) = DRAWS[0];
    let (expected, found) = (embedded.draw(prompt, seed).unwrap(), own.draw(prompt, seed).unwrap());
    assert_eq!(found.image(), expected.image());
    assert!(expected.parameters().contains("Seed: 123456, RNG: CPU, Size: 64x64, Model: shapes"));
    assert!(found.parameters().contains("Model: own"));
    assert_eq!(found.rgba().len(), 64 * 64 * 4);
    assert_eq!(found.rgba()[..4], [&found.image().as_raw()[..3], &[255]].concat());
}

#[test]
fn what_cannot_be_drawn() {
    let drawer = Drawer::embedded().unwrap();
    let said = |prompt: &str, seed: f64| drawer.draw(prompt, seed).unwrap_err().to_string();
    assert_eq!(said(" ", 0.0), "the prompt is empty; say what to draw");
    for seed in [-1.0, 0.5, f64::NAN, f64::INFINITY, 9_007_199_254_740_992.0] {
        assert_eq!(
            said("a circle", seed),
            format!("seed {seed} is not possible; it must be a whole number from 0 to 9007199254740991")
        );
    }
    let error = Drawer::from_files("none", []).unwrap_err();
    assert!(matches!(error, Error::Infer(_)), "{error}");
    assert!(error.to_string().contains("is not a model folder: it has neither"), "{error}");
}

/// The folder of a built page; `None`, said in a line, where there is none.
fn page(what: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("DMD_WEB").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("DMD_WEB names no folder that examples/web/build made: {what} is NOT checked");
    }
    folder
}

/// What a script of this folder prints as JSON, given arguments and wishes.
fn ran(script: &str, arguments: &[&Path], wishes: &Value) -> Value {
    let mut node = Command::new("node");
    node.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script)).args(arguments);
    let mut node = node.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node is on the PATH");
    node.stdin.take().unwrap().write_all(wishes.to_string().as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success(), "{script}: {}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    BASE64_STANDARD.decode(value.as_str().unwrap_or_else(|| panic!("no text: {value}"))).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// Pixels of a browser's are those drawn here: other registers add in another order, which takes a value to the next of 255 levels
/// at most.
fn assert_drawn(found: &[u8], (prompt, seed): (&str, f64), drawer: &Drawer) {
    let expected = drawer.draw(prompt, seed).unwrap().rgba();
    assert_eq!(found.len(), expected.len());
    let apart = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b));
    let different = apart.clone().filter(|apart| *apart > 0).count();
    let largest = apart.max().unwrap();
    println!("{prompt:?}, seed {seed}: {different} of {} values differ, by at most {largest}", found.len());
    assert!(largest <= 1, "{prompt:?}, seed {seed}: a difference of {largest}");
}

fn wishes() -> Vec<Value> {
    DRAWS.iter().map(|(prompt, seed)| json!({ "prompt": prompt, "seed": seed })).collect()
}

#[test]
fn the_module_draws_in_node() {
    let Some(folder) = page("the module in Node") else { return };
    let mut draws = wishes();
    draws.push(json!({ "prompt": "", "seed": 0 }));
    draws.push(json!({ "prompt": "a circle", "seed": -1 }));
    let found = ran("node.mjs", &[&folder], &json!({ "draws": draws, "files": files() }));
    let drawer = Drawer::embedded().unwrap();
    assert_eq!(found["size"], json!([64, 64]));
    for (draw, picture) in DRAWS.iter().zip(found["embedded"].as_array().unwrap()) {
        println!("ms: {} of text, UNet, picture and all", picture["ms"]);
        let pixels = bytes(&picture["pixels"]);
        assert_drawn(&pixels, *draw, &drawer);
        let png = bytes(&picture["png"]);
        let decoded = image::load_from_memory(&png).unwrap().to_rgba8();
        assert_eq!(decoded.dimensions(), (64, 64));
        assert_eq!(decoded.into_raw(), pixels);
        let parameters = text(&picture["parameters"]);
        assert_eq!(parameters, drawer.draw(draw.0, draw.1).unwrap().parameters());
        assert!(png.windows(parameters.len()).any(|part| part == parameters.as_bytes()));
        assert!(picture["ms"].as_array().unwrap().iter().all(|ms| ms.as_f64().unwrap() > 0.0));
    }
    println!("opened in {} ms; {} bytes of memory", found["opened"], found["memory"]);
    assert_drawn(&bytes(&found["fetched"]["pixels"]), DRAWS[0], &drawer);
    assert!(text(&found["fetched"]["parameters"]).contains("Model: own"));
    let refused = |error: &Value| {
        assert_eq!(error["name"], "Error", "{error}");
        text(&error["error"]).to_owned()
    };
    assert_eq!(refused(&found["embedded"][4]), "the prompt is empty; say what to draw");
    assert!(refused(&found["embedded"][5]).starts_with("seed -1 is not possible"));
    let without = refused(&found["without"]);
    assert!(without.contains("vae/config.json") && without.contains("not among the files"), "{without}");
    assert!(refused(&found["text"]).contains("vae/config.json"), "{found}");
}

#[test]
fn the_page_draws_in_a_browser() {
    let Some(folder) = page("the page in a browser") else { return };
    let version = Command::new("chromium").arg("--version").output();
    if !version.is_ok_and(|version| version.status.success()) {
        eprintln!("chromium is not here: the page is NOT checked in a browser");
        return;
    }
    let here = tempfile::tempdir().unwrap();
    let screenshot = std::env::var_os("DMD_WEB_SCREENSHOT").map(PathBuf::from);
    let screenshot = screenshot.unwrap_or_else(|| here.path().join("page.png"));
    let profile = here.path().join("profile");
    let found = ran("chromium.mjs", &[&folder, &profile, &screenshot], &json!({ "draws": wishes() }));
    let drawer = Drawer::embedded().unwrap();
    for (draw, picture) in DRAWS.iter().zip(found["pictures"].as_array().unwrap()) {
        println!("{} after {} ms", text(&picture["times"]), picture["waited"]);
        assert!(text(&picture["times"]).starts_with("1 step: "));
        assert_drawn(&bytes(&picture["pixels"]), *draw, &drawer);
    }
    assert_eq!(found["pictures"].as_array().unwrap().len(), DRAWS.len());
    assert_eq!(found["link"], "?prompt=a+red+circle+above+a+blue+square&seed=7");
    assert_eq!(found["empty"], "the prompt is empty; say what to draw");
    assert!(text(&found["seed"]).starts_with("seed -1 is not possible"), "{found}");
    assert_eq!(found["errors"], json!([]), "the console is silent");
    assert!(image::open(&screenshot).unwrap().width() >= 600);
}
