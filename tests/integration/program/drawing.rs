//! `dmd generate` and `dmd compare`: the files they write.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use image::ImageFormat;

use super::{dmd, refused};
use crate::support::{golden, tiny_model};

#[test]
fn generate_writes_pictures() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    let arguments =
        ["generate", "a red circle", "--model", model.path().to_str().unwrap(), "--out", "new/one.png"];
    let output = dmd(here.path(), &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let picture = image::open(here.path().join("new/one.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (32, 32));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("one.png") && said.contains("seed 0") && said.contains(" ms"), "{said}");

    let model = model.path().to_str().unwrap();
    let output = dmd(
        here.path(),
        &["generate", "x", "y", "--count", "2", "--seed", "5", "--steps", "3", "--model", model],
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for i in 1..=4 {
        assert!(here.path().join(format!("picture-{i}.png")).is_file());
    }
}

/// The program draws in an empty folder without any variable of its user, and draws what `models/shapes` does.
#[test]
fn a_copied_program_draws() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let here = tempfile::tempdir().unwrap();
    let program = here.path().join("copied");
    fs::copy(env!("CARGO_BIN_EXE_dmd"), &program).unwrap();
    let draw = |folder: &Path| {
        let out = here.path().join("one.png");
        let arguments = ["generate", "a red circle above a blue square", "--seed", "7", "--out"];
        let mut command = Command::new(&program);
        let output = command.current_dir(folder).env_clear().args(arguments).arg(&out).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        image::open(out).unwrap().to_rgb8()
    };
    let empty = here.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(draw(&empty) == draw(root), "the folder's model draws another picture");
    assert!(fs::read_dir(&empty).unwrap().next().is_none(), "it left files");

    let said = refused(&empty, &["generate", "x", "--steps", "30"]);
    assert!(said.contains("no teacher"), "{said}");
    let said = refused(&empty, &["inspect", "embedded:/another"]);
    assert!(said.contains("does not exist"), "{said}");
    let output = dmd(&empty, &["inspect", "embedded:/dmd-shapes"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("unet_one_step"), "{output:?}");
}

#[test]
fn compare_writes_a_labelled_sheet() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    let model = model.path().to_str().unwrap();
    let output = dmd(here.path(), &["compare", "x", "y", "--steps", "2", "--repeats", "1", "--model", model]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("teacher, 2 steps") && said.contains("one step") && said.contains("ratio"),
        "{said}"
    );
    let sheet = image::open(here.path().join("compare.png")).unwrap();
    assert!(sheet.width() > 512 && sheet.height() > 512);
}

/// A file holds what its name says, with the picture's parameters inside; other names are refused before anything is
/// drawn.
#[test]
fn formats_by_name() {
    let model = tiny_model();
    let model = model.path().to_str().unwrap();
    let here = tempfile::tempdir().unwrap();
    for (name, kind, text) in [
        ("fox.jpg", ImageFormat::Jpeg, "\0S\0e\0e\0d"),
        ("fox.webp", ImageFormat::WebP, "\0S\0e\0e\0d"),
        ("fox.PNG", ImageFormat::Png, "Seed"),
        ("fox", ImageFormat::Png, "Seed: 18446744073709551615"),
    ] {
        let output = dmd(here.path(), &["generate", "x", "--seed", "-1", "--model", model, "--out", name]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let bytes = fs::read(here.path().join(name)).unwrap();
        assert_eq!(image::guess_format(&bytes).unwrap(), kind, "{name}");
        assert!(bytes.windows(text.len()).any(|part| part == text.as_bytes()), "{name} has no parameters");
    }
    fs::create_dir(here.path().join("folder")).unwrap();
    let before = fs::read_dir(here.path()).unwrap().count();
    let said = refused(here.path(), &["generate", "x", "--model", model, "--out", "fox.tiff"]);
    assert!(said.contains(".png") && said.contains("fox.tiff"), "{said}");
    let said = refused(here.path(), &["generate", "x", "--model", model, "--out", "folder"]);
    assert_eq!(said.matches("Is a directory").count(), 1, "{said}");
    let said = refused(here.path(), &["compare", "x", "--model", model, "--out", "sheet.gif"]);
    assert!(said.contains(".png"), "{said}");
    assert_eq!(fs::read_dir(here.path()).unwrap().count(), before, "nothing was written");
}

/// Many pictures: each is written when it is drawn, Ctrl-C keeps them, and a picture is the one that its prompt and
/// seed give alone.
#[test]
#[cfg(unix)]
fn ctrl_c_keeps_what_was_drawn() {
    let model = tiny_model();
    let model = model.path().to_str().unwrap();
    let here = tempfile::tempdir().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_dmd"))
        .args(["generate", "x", "--count", "100000", "--seed", "3", "--model", model, "--out", "many/p.png"])
        .current_dir(here.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let many = here.path().join("many");
    let pictures = || fs::read_dir(&many).map_or(0, Iterator::count);
    let start = std::time::Instant::now();
    while pictures() < 5 {
        assert!(start.elapsed().as_secs() < 300, "no picture appears");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains(&format!("{} of 100000 pictures are written", pictures())), "{said}");
    for entry in fs::read_dir(&many).unwrap() {
        assert!(image::open(entry.unwrap().path()).is_ok());
    }
    let output = dmd(here.path(), &["generate", "x", "--seed", "6", "--model", model, "--out", "one.png"]);
    assert!(output.status.success());
    let (alone, among) = (here.path().join("one.png"), many.join("p-000004.png"));
    assert!(fs::read(alone).unwrap() == fs::read(among).unwrap(), "a picture depends on its company");
}

/// A plain Stable Diffusion folder has no generator: the sentence says so, and what to do.
#[test]
fn a_folder_without_a_generator() {
    let model = tiny_model();
    fs::remove_dir_all(model.path().join("unet_one_step")).unwrap();
    let here = tempfile::tempdir().unwrap();
    let folder = model.path().to_str().unwrap();
    let drawn = |arguments: &[&str], out: &str| {
        let output =
            dmd(here.path(), &[&["generate", "x", "--model", folder, "--out", out], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    // Pointing is enough: the usual way, and a line that says which.
    let said = drawn(&[], "usual.png");
    assert!(said.contains("50 steps") && said.contains("7.5") && said.contains("--generator"), "{said}");
    drawn(&["--steps", "50", "--guidance", "7.5"], "asked.png");
    let picture = |name: &str| image::open(here.path().join(name)).unwrap().to_rgb8();
    assert_eq!(picture("usual.png"), picture("asked.png"));
    // The model itself as a few-step one.
    let said = drawn(&["--recipe", "dmd2-4step"], "few.png");
    assert!(said.contains("dmd2-4step") && said.contains("999, 749, 499, 249"), "{said}");
    let said = refused(here.path(), &["generate", "x", "--model", folder, "--recipe", "lightning-4step"]);
    assert!(said.contains("XL"), "{said}");
}

/// A repository of the hub that the cache holds, as Python's huggingface_hub leaves it, is opened without a connection, and
/// a single file with a LoRA is converted.
#[test]
#[cfg(feature = "hub")]
fn a_model_from_the_hubs_cache() {
    let here = tempfile::tempdir().unwrap();
    let cache = here.path().join("hub/models--someone--tiny");
    let snapshot = cache.join("snapshots/0123456789abcdef0123456789abcdef01234567");
    fs::create_dir_all(cache.join("refs")).unwrap();
    fs::write(cache.join("refs/main"), "0123456789abcdef0123456789abcdef01234567").unwrap();
    copy_folder(tiny_model().path(), &snapshot);
    let offline = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_dmd"))
            .current_dir(here.path())
            .env("HF_HUB_CACHE", here.path().join("hub"))
            .env("HF_HUB_OFFLINE", "1")
            .args(arguments)
            .output()
            .unwrap()
    };
    let drawn = offline(&["generate", "a red circle", "--model", "someone/tiny", "--out", "hub.png"]);
    assert!(drawn.status.success(), "{drawn:?}");
    let path = snapshot.to_string_lossy().into_owned();
    let drawn = offline(&["generate", "a red circle", "--model", &path, "--out", "folder.png"]);
    assert!(drawn.status.success(), "{drawn:?}");
    let picture = |name: &str| image::open(here.path().join(name)).unwrap().to_rgb8();
    assert_eq!(picture("hub.png"), picture("folder.png"));
    let pulled = offline(&["pull", "someone/tiny"]);
    assert_eq!(String::from_utf8_lossy(&pulled.stdout).trim(), path, "{pulled:?}");
    let absent = offline(&["generate", "x", "--model", "someone/else"]);
    let said = String::from_utf8_lossy(&absent.stderr).into_owned();
    assert!(!absent.status.success() && said.contains("someone/else"), "{said}");
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let place = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &place);
        } else {
            fs::copy(&path, &place).unwrap();
        }
    }
}

#[test]
fn a_single_file_is_converted_and_drawn_with_a_lora() {
    let here = tempfile::tempdir().unwrap();
    let (file, config) = (golden("files/sdxl.safetensors"), golden("sdxl"));
    let (file, config) = (file.to_str().unwrap(), config.to_str().unwrap());
    let lora = format!("{}:0.7", golden("files/lora/kohya.safetensors").display());
    let run = |arguments: &[&str]| {
        let output = dmd(here.path(), arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = run(&["convert", file, "whole", "--config", config, "--lora", &lora]);
    assert!(said.contains("kohya") && said.contains("strength 0.7"), "{said}");
    run(&["generate", "red", "--model", "whole", "--recipe", "dmd2-1step", "--out", "a.png"]);
    let two = ["--config", config, "--lora", &lora, "--recipe", "dmd2-1step", "--out", "b.png"];
    run(&[&["generate", "red", "--model", file], &two[..]].concat());
    let picture = |name: &str| image::open(here.path().join(name)).unwrap().to_rgb8();
    assert_eq!(picture("a.png"), picture("b.png"));
    assert!(refused(here.path(), &["convert", file, "whole", "--config", config]).contains("exists already"));
}

#[test]
fn a_picture_of_a_word_of_an_embedding() {
    let (model, here) = (tiny_model(), tempfile::tempdir().unwrap());
    let file = golden("embeddings/web_ui_three.safetensors").display().to_string();
    let arguments = |embedding: &str, out: &str| {
        [
            "generate",
            "a sks circle",
            "--model",
            model.path().to_str().unwrap(),
            "--embedding",
            embedding,
            "--out",
            out,
        ]
        .map(str::to_owned)
    };
    let said = |embedding: &str, out: &str| {
        let all = arguments(embedding, out);
        let output = dmd(here.path(), &all.each_ref().map(String::as_str));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let note = said(&format!("{file}:sks"), "a.png");
    assert!(note.contains("note: ") && note.contains("the word \"sks\", 3 vectors"), "{note}");
    let note = said(&file, "b.png");
    assert!(note.contains("the word \"web_ui_three\", 3 vectors"), "{note}");
    let picture = |name: &str| image::open(here.path().join(name)).unwrap().to_rgb8();
    assert_ne!(picture("a.png"), picture("b.png"), "the prompt has the first word alone");

    let all = arguments(&format!("{file}:re"), "c.png");
    let refused = refused(here.path(), &all.each_ref().map(String::as_str));
    assert!(refused.contains("\"re\"") && refused.contains("another word"), "{refused}");
    assert!(!here.path().join("c.png").exists());
}

/// The commands that draw take the same parts and say the same of them; a PNG holds the LoRA and the recipe as other
/// programs write them.
#[test]
fn parts_of_every_command_that_draws() {
    let here = tempfile::tempdir().unwrap();
    let (file, config) = (golden("files/sdxl.safetensors"), golden("sdxl"));
    // Its name says that it makes a generator of the model, which is the teacher without it.
    let lora = here.path().join("sdxl_lightning_4step_lora.safetensors");
    fs::copy(golden("files/lora/kohya.safetensors"), &lora).unwrap();
    let lora = format!("{}:0.7", lora.display());
    let vae = golden("sdxl/vae");
    let run = |command: &[&str]| {
        let parts = [
            "--model",
            file.to_str().unwrap(),
            "--config",
            config.to_str().unwrap(),
            "--lora",
            &lora,
            "--vae",
            vae.to_str().unwrap(),
            "--recipe",
            "lightning-4step",
        ];
        let output = dmd(here.path(), &[command, &parts[..]].concat());
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said.matches("strength 0.7").count(), 1, "{command:?}: {said}");
        (String::from_utf8_lossy(&output.stdout).into_owned(), said)
    };
    let (_, said) = run(&["generate", "red", "--out", "a.png"]);
    assert!(said.contains("lightning-4step"), "{said}");
    let bytes = fs::read(here.path().join("a.png")).unwrap();
    let text = b"red <lora:sdxl_lightning_4step_lora:0.7>\nSteps: 4, Recipe: lightning-4step, Seed: 0";
    assert!(bytes.windows(text.len()).any(|part| part == text));

    let (said, notes) = run(&["compare", "red", "--steps", "2", "--repeats", "1", "--out", "c.png"]);
    assert!(said.contains("generator, 4 steps") && notes.contains("lightning-4step"), "{said}{notes}");
    let (said, notes) = run(&["evaluate", "--prompts", "2", "--steps", "4"]);
    assert!(said.contains("  4 steps: ") && notes.contains("lightning-4step"), "{said}{notes}");
    let (said, _) = run(&["bench", "--runs", "1", "--json"]);
    let parts: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<_> = parts.iter().map(|part| part["part"].as_str().unwrap()).collect();
    assert_eq!(names, ["text", "unet", "decode", "picture"]);

    let (said, _) = run(&["self-check", "--all"]);
    assert!(said.contains("decoder"), "{said}");

    // A setting that the recipe has not: as any other model, with its LoRA. A number of steps alone is refused.
    let drawn = |settings: &[&str]| {
        let model =
            ["generate", "red", "--lora", &lora, "--model", config.to_str().unwrap(), "--out", "d.png"];
        dmd(here.path(), &[&model[..], settings].concat())
    };
    let output = drawn(&["--sampler", "euler", "--steps", "3", "--guidance", "1"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && said.contains("like any other") && said.contains("strength 0.7"),
        "{said}"
    );
    let bytes = fs::read(here.path().join("d.png")).unwrap();
    let text = b"<lora:sdxl_lightning_4step_lora:0.7>\nSteps: 3, Sampler: euler, CFG scale: 1";
    assert!(bytes.windows(text.len()).any(|part| part == text));
    let output = drawn(&["--steps", "3"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("in 4 steps (recipe lightning-4step), and not in 3"),
        "{said}"
    );

    // A model without a generator has no such picture.
    let output = dmd(here.path(), &["bench", "--runs", "1", "--model", config.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("| unet |") && !said.contains("| picture |"), "{said}");
}
