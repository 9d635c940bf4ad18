//! Bad input: one sentence, a failing exit code, nothing written.

use std::fs;
use std::path::Path;

use super::refused;
use crate::support::tiny_model;

#[test]
fn bad_requests() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    let model = model.path().to_str().unwrap();
    let generate = |arguments: &[&str]| {
        let mut all = vec!["generate", "--model", model];
        all.extend(arguments);
        refused(here.path(), &all)
    };
    for (arguments, word) in [
        (&[""][..], "empty"),
        (&["x", "--device", "potato"], "potato"),
        (&["x", "--count", "0"], "--count"),
        (&["x", "--steps", "0"], "0 sampling steps"),
        (&["x", "--guidance", "3"], "without guidance"),
        (&["x", "--steps", "5", "--guidance", "nan"], "guidance"),
        (&["x", "--frobnicate"], "--frobnicate"),
        (&[&"word ".repeat(90)], "77"),
    ] {
        let sentence = generate(arguments);
        assert!(sentence.contains(word), "{arguments:?}: {sentence}");
    }
    if !dmd::device::available().contains(&"cuda") {
        let sentence = generate(&["x", "--device", "cuda"]);
        assert!(sentence.contains("--features cuda"), "{sentence}");
    }
    assert!(refused(here.path(), &["generate", "x", "--model", "nowhere"]).contains("nowhere"));
    assert_eq!(fs::read_dir(here.path()).unwrap().count(), 0, "nothing was written");
}

#[test]
fn broken_weights() {
    let here = tempfile::tempdir().unwrap();
    let file = "unet_one_step/diffusion_pytorch_model.safetensors";
    let with = |change: &dyn Fn(&Path)| {
        let model = tiny_model();
        change(&model.path().join(file));
        refused(here.path(), &["generate", "x", "--model", model.path().to_str().unwrap()])
    };
    let truncated = with(&|path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    });
    assert!(truncated.contains("not a complete safetensors file"), "{truncated}");
    let missing = with(&|path| fs::remove_file(path).unwrap());
    assert!(missing.contains("holds no weights"), "{missing}");
    let foreign = with(&|path| {
        fs::copy(crate::support::golden("vae/diffusion_pytorch_model.safetensors"), path).unwrap();
    });
    assert!(foreign.contains("missing") && foreign.contains("unused"), "{foreign}");
    assert_eq!(fs::read_dir(here.path()).unwrap().count(), 0, "nothing was written");
}

#[test]
fn a_folder_that_cannot_be_written() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    fs::write(here.path().join("file"), "kept").unwrap();
    let model = model.path().to_str().unwrap();
    let sentence = refused(here.path(), &["generate", "x", "--model", model, "--out", "file/picture.png"]);
    assert!(sentence.contains("cannot write"), "{sentence}");
    assert_eq!(fs::read_to_string(here.path().join("file")).unwrap(), "kept");
}

#[test]
fn configurations_with_unknown_keys() {
    let here = tempfile::tempdir().unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    for (command, file) in [("teacher", "shapes-teacher.toml"), ("distill", "shapes-distill.toml")] {
        let text = fs::read_to_string(shipped.join(file)).unwrap();
        fs::write(here.path().join("run.toml"), format!("stesp = 3\n{text}")).unwrap();
        let sentence = refused(here.path(), &[command, "run.toml"]);
        assert!(sentence.contains("stesp") && sentence.contains("run.toml"), "{sentence}");
        let sentence = refused(here.path(), &[command, "none.toml"]);
        assert!(sentence.contains("none.toml"), "{sentence}");
    }
}
