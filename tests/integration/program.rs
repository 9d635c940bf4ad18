//! The program: what it prints, what it writes, and how it fails. Bad input gives one clear
//! sentence, a failing exit code, and no file under the final name.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::tiny_model;

fn dmd(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dmd"))
        .current_dir(folder)
        .args(arguments)
        .output()
        .expect("the program runs")
}

/// Runs, expects failure, and returns the one sentence.
fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = dmd(folder, arguments);
    let sentence = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    assert!(!output.status.success(), "{arguments:?} should fail");
    assert!(!sentence.contains("panicked"), "{arguments:?}: {sentence}");
    sentence
}

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

/// The mean of a generator and itself is that generator; of generators that are called differently there is none.
#[test]
fn average_of_generators() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    let generator = model.path().join("unet_one_step");
    fs::write(
        generator.join("one_step.json"),
        r#"{"timestep": 19, "noise_scale": 1.0, "guidance_scale": 1.0}"#,
    )
    .unwrap();
    let generator = generator.to_str().unwrap();
    let output = dmd(here.path(), &["average", generator, generator, "--out", "mean"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let weights = "diffusion_pytorch_model.safetensors";
    let values = |folder: &Path| {
        let file = dmd_weights::read(&folder.join(weights)).unwrap();
        file.entries().keys().map(|name| file.floats(name).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(values(&here.path().join("mean")), values(Path::new(generator)));
    let settings =
        |folder: &Path| dmd_weights::read_json::<serde_json::Value>(&folder.join("one_step.json")).unwrap();
    assert_eq!(settings(&here.path().join("mean")), settings(Path::new(generator)));

    let other = here.path().join("mean/one_step.json");
    fs::write(&other, r#"{"timestep": 1, "noise_scale": 1.0, "guidance_scale": 1.0}"#).unwrap();
    let said = refused(here.path(), &["average", generator, "mean", "--out", "none"]);
    assert!(said.contains("one_step.json"), "{said}");
    let said = refused(here.path(), &["average", generator, "nowhere", "--out", "none"]);
    assert!(said.contains("nowhere"), "{said}");
    refused(here.path(), &["average", generator, "--out", "none"]);
    assert!(!here.path().join("none").exists());
}

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
    if !dmd::core::device::available().contains(&"cuda") {
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

/// The shipped configuration, for another teacher, without what a test adds itself.
fn distillation(teacher: &tempfile::TempDir) -> toml::Table {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/shapes-distill.toml");
    let mut config: toml::Table = fs::read_to_string(shipped).unwrap().parse().unwrap();
    config["teacher"] = teacher.path().to_str().unwrap().into();
    config.remove("adversarial");
    let generator = config["generator"].as_table_mut().unwrap();
    for key in ["start", "timesteps", "accumulate", "parallel"] {
        generator.remove(key);
    }
    config
}

/// Distillation from a model folder, interrupted by nothing: pairs, steps, the one-step folder, and
/// a second call that finds everything done.
#[test]
fn distil_a_tiny_model() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    let mut config = distillation(&model);
    config["output"] = "run".into();
    config["generator"]["batch"] = 4.into();
    config["regression"]["pairs"] = 4.into();
    config["regression"]["sampling_steps"] = 2.into();
    config["regression"]["warmup_steps"] = 1.into();
    config["fake"]["steps_per_generator_step"] = 2.into();
    config["pace"]["steps"] = 2.into();
    fs::write(here.path().join("run.toml"), config.to_string()).unwrap();
    for _ in 0..2 {
        let output = dmd(here.path(), &["distill", "run.toml"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let made = here.path().join("run/unet_one_step");
    fs::remove_dir_all(model.path().join("unet_one_step")).unwrap();
    fs::rename(&made, model.path().join("unet_one_step")).unwrap();
    let output = dmd(here.path(), &["generate", "x", "--model", model.path().to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metrics = fs::read_to_string(here.path().join("run/metrics.jsonl")).unwrap();
    assert!(metrics.contains("\"probe_accuracy\""), "{metrics}");

    // The run as a page: curves, grids and the configuration, all inside one file.
    let output = dmd(here.path(), &["report", "run"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let page = fs::read_to_string(here.path().join("run/report.html")).unwrap();
    for part in ["<svg", "data:image/png;base64,", "regression: ", "gradient_norm", "guidance_scale = 2.0"] {
        assert!(page.contains(part), "the page has no {part}");
    }
    assert!(!page.contains("http"), "the page needs nothing from elsewhere");
    // Random weights make samples far from unit variance: the alarm for it rings.
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("sample_deviation") && text.contains("outside its band"), "{text}");
    assert!(refused(here.path(), &["report", "nowhere"]).contains("metrics.jsonl"));
}

/// Two machines' shares of the pairs are, file by file, what one machine makes.
#[test]
fn pairs_in_shares_are_the_pairs() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    let mut config = distillation(&model);
    config["regression"]["pairs"] = 300.into();
    config["regression"]["sampling_steps"] = 1.into();
    for output in ["whole", "shared"] {
        config["output"] = output.into();
        fs::write(here.path().join(format!("{output}.toml")), config.to_string()).unwrap();
    }
    let run = |arguments: &[&str]| {
        let output = dmd(here.path(), arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["pairs", "whole.toml"]);
    run(&["pairs", "shared.toml", "--shard", "2/2"]);
    let files = |output: &str| {
        let mut files: Vec<_> = fs::read_dir(here.path().join(output).join("pairs"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.file_name().unwrap().to_owned(), fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    };
    assert_eq!(files("shared").len(), 1);
    run(&["pairs", "shared.toml", "--shard", "1/2"]);
    assert_eq!(files("whole").len(), 3);
    assert!(files("whole") == files("shared"), "a share differs from the whole");
    for wrong in ["0/2", "3/2", "x", "1/0"] {
        let sentence = refused(here.path(), &["pairs", "whole.toml", "--shard", wrong]);
        assert!(sentence.contains("is no share"), "{sentence}");
    }
}

/// What a run logged, but for its clock.
fn losses(folder: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default();
    let mut lines: Vec<serde_json::Value> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for line in &mut lines {
        let object = line.as_object_mut().unwrap();
        object.remove("seconds");
        object.remove("memory_gib");
    }
    lines
}

/// Killed at any moment, without a chance to clean up, and started again: the losses are, bit by bit,
/// those of a run that was never stopped.
#[test]
fn a_killed_run_goes_on_as_if_it_had_not_been() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    let mut config = distillation(&model);
    config["generator"]["batch"] = 2.into();
    config["regression"]["pairs"] = 4.into();
    config["regression"]["sampling_steps"] = 2.into();
    config["regression"]["warmup_steps"] = 3.into();
    config["pace"]["steps"] = 12.into();
    config["pace"]["checkpoint_every"] = 2.into();
    config["pace"].as_table_mut().unwrap().insert("log_every".to_owned(), 1.into());
    for output in ["whole", "killed"] {
        config["output"] = output.into();
        fs::write(here.path().join(format!("{output}.toml")), config.to_string()).unwrap();
    }
    assert!(dmd(here.path(), &["distill", "whole.toml"]).status.success());
    let (whole, killed) = (here.path().join("whole"), here.path().join("killed"));
    for reached in [1, 4, 7] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_dmd"))
            .args(["distill", "killed.toml"])
            .current_dir(here.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let start = std::time::Instant::now();
        while losses(&killed).len() < reached && start.elapsed().as_secs() < 60 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(dmd(here.path(), &["distill", "killed.toml"]).status.success());
    let (whole_losses, killed_losses) = (losses(&whole), losses(&killed));
    assert_eq!(whole_losses.len(), 13, "twelve steps and a probe");
    for (whole, killed) in whole_losses.iter().zip(&killed_losses) {
        assert_eq!(whole, killed);
    }
    assert_eq!(whole_losses.len(), killed_losses.len());
    let weights =
        |run: &Path| fs::read(run.join("unet_one_step/diffusion_pytorch_model.safetensors")).unwrap();
    assert!(weights(&whole) == weights(&killed), "the generators differ");
}

/// DMD2 from a configuration: no pairs, two time scales, the adversarial term, another weighting; and
/// what is wrong with it is said.
#[test]
fn distil_with_the_adversarial_term() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    let mut config = distillation(&model);
    config["output"] = "run".into();
    config["generator"]["batch"] = 2.into();
    config.remove("regression");
    let adversarial = toml::toml! {
        generator_weight = 1e-3
        critic_weight = 1e-2
        reals = 8
    };
    config.insert("adversarial".to_owned(), adversarial.into());
    config["matching"].as_table_mut().unwrap().insert("weighting".to_owned(), "sigma_over_alpha".into());
    config["pace"]["steps"] = 2.into();
    config["pace"].as_table_mut().unwrap().insert("log_every".to_owned(), 1.into());
    let path = here.path().join("run.toml");
    fs::write(&path, config.to_string()).unwrap();
    // The shapes have 64 pixels a side, the tiny model's pictures 32.
    assert!(refused(here.path(), &["distill", "run.toml"]).contains("real latents of [4, 16, 16]"));

    let pictures = here.path().join("pictures");
    fs::create_dir(&pictures).unwrap();
    let mut lines = String::new();
    for i in 0..3_u8 {
        let name = format!("{i}.png");
        image::RgbImage::from_pixel(32, 32, image::Rgb([80 * i, 200, 30]))
            .save(pictures.join(&name))
            .unwrap();
        lines.push_str(&format!("{{\"file_name\": \"{name}\", \"text\": \"picture {i}\"}}\n"));
    }
    fs::write(pictures.join("metadata.jsonl"), lines).unwrap();
    let data = toml::toml! {
        kind = "folder"
        path = "pictures"
        size = 32
    };
    config["data"] = data.into();
    fs::write(&path, config.to_string()).unwrap();
    let output = dmd(here.path(), &["distill", "run.toml"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let logged = losses(&here.path().join("run"));
    assert_eq!(logged.len(), 2);
    for line in &logged {
        assert!(line["critic"].is_number() && line["adversarial"].is_number(), "{line}");
        assert!(line["matching"].as_f64().unwrap() > 0.0 && line["regression"].is_null(), "{line}");
    }
    // The critic's noise levels: the whole schedule is what leaving the option out means; low ones show it other
    // samples, and change nothing for the matching term, whose draws come first.
    for (last, name) in [(999, "whole"), (0, "low")] {
        let mut config = config.clone();
        config["output"] = name.into();
        config["adversarial"].as_table_mut().unwrap().insert("last_timestep".to_owned(), last.into());
        fs::write(&path, config.to_string()).unwrap();
        let output = dmd(here.path(), &["distill", "run.toml"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let found = losses(&here.path().join(name));
        assert_eq!(found[0]["matching"], logged[0]["matching"]);
        assert_eq!(found[0]["logit_real"] == logged[0]["logit_real"], name == "whole", "{}", found[0]);
        assert_eq!(found[0]["adversarial"] == logged[0]["adversarial"], name == "whole", "{}", found[0]);
    }
    let mut wrong = config.clone();
    wrong["adversarial"].as_table_mut().unwrap().insert("last_timestep".to_owned(), 1000.into());
    fs::write(&path, wrong.to_string()).unwrap();
    assert!(refused(here.path(), &["distill", "run.toml"]).contains("adversarial.last_timestep"));
    let mut wrong = config.clone();
    let regression = toml::toml! {
        weight = 1.0
        pairs = 8
        sampling_steps = 2
        warmup_steps = 0
        measure = { pseudo_huber = { c = 0.1 } }
        perceptual = { trunk = "a.pth", weightings = "b.pth" }
    };
    wrong.insert("regression".to_owned(), regression.into());
    fs::write(&path, wrong.to_string()).unwrap();
    assert!(refused(here.path(), &["distill", "run.toml"]).contains("regression.measure"));
    // The same for a generator of four steps, two micro-batches per update, older checkpoints kept.
    let generator = config["generator"].as_table_mut().unwrap();
    generator.insert("timesteps".to_owned(), toml::Value::from(vec![999, 749, 499, 249]));
    generator.insert("accumulate".to_owned(), 2.into());
    generator.insert("parallel".to_owned(), 2.into());
    generator.insert("recompute".to_owned(), true.into());
    config.insert("teacher_precision".to_owned(), "f16".into());
    config["output"] = "four".into();
    config["pace"]["steps"] = 6.into();
    config["pace"]["checkpoint_every"] = 2.into();
    config["pace"].as_table_mut().unwrap().insert("keep".to_owned(), 2.into());
    fs::write(&path, config.to_string()).unwrap();
    let output = dmd(here.path(), &["distill", "run.toml"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in losses(&here.path().join("four")).iter().filter(|line| line["fake"].is_number()) {
        assert!(line["logit_real"].is_number() && line["logit_generated"].is_number(), "{line}");
    }
    let mut kept: Vec<String> = fs::read_dir(here.path().join("four/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    kept.sort();
    assert_eq!(kept, ["distillation", "distillation-00000004"]);
    fs::remove_dir_all(model.path().join("unet_one_step")).unwrap();
    fs::rename(here.path().join("four/unet_one_step"), model.path().join("unet_one_step")).unwrap();
    let at = model.path().to_str().unwrap();
    let output = dmd(here.path(), &["generate", "x", "--steps", "4", "--model", at]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(refused(here.path(), &["generate", "x", "--model", at]).contains("4 steps"));
    config["generator"]["timesteps"] = toml::Value::from(vec![249, 999]);
    fs::write(&path, config.to_string()).unwrap();
    assert!(refused(here.path(), &["distill", "run.toml"]).contains("generator.timesteps"));

    config["adversarial"]["reals"] = 0.into();
    fs::write(&path, config.to_string()).unwrap();
    assert!(refused(here.path(), &["distill", "run.toml"]).contains("adversarial.reals"));
    config["adversarial"].as_table_mut().unwrap().insert("reels".to_owned(), 1.into());
    fs::write(&path, config.to_string()).unwrap();
    assert!(refused(here.path(), &["distill", "run.toml"]).contains("reels"));
}

/// A class-conditional model on pixels, from a folder of pictures to one step: teacher, Heun pairs, both losses'
/// turns at EDM's noise levels, and pictures of classes by name.
#[test]
fn classes_on_pixels() {
    let here = tempfile::tempdir().unwrap();
    let pictures = here.path().join("pictures");
    fs::create_dir(&pictures).unwrap();
    let mut lines = String::new();
    for i in 0..12_u8 {
        let (name, class) = (format!("{i}.png"), ["bright", "dark"][usize::from(i % 2)]);
        let level = if i % 2 == 0 { 220 } else { 30 };
        image::RgbImage::from_pixel(8, 8, image::Rgb([level, level, 10 * i]))
            .save(pictures.join(&name))
            .unwrap();
        lines.push_str(&format!("{{\"file_name\": \"{name}\", \"text\": \"{class}\"}}\n"));
    }
    fs::write(pictures.join("metadata.jsonl"), lines).unwrap();
    let teacher = r#"
        kind = "pixels"
        seed = 1
        output = "teacher"
        data = { kind = "folder", path = "pictures", size = 8 }
        unet = { block_out_channels = [16, 16], layers_per_block = 1, attention_head_dim = 8, norm_num_groups = 4 }
        [training]
        batch = 8
        learning_rate = 2e-3
        warmup_steps = 5
        ema_decay = 0.9
        class_dropout = 0.1
        pace = { steps = 60, checkpoint_every = 30 }
    "#;
    fs::write(here.path().join("teacher.toml"), teacher).unwrap();
    let run = |arguments: &[&str]| {
        let output = dmd(here.path(), arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["teacher", "teacher.toml"]);
    let distil = r#"
        seed = 2
        teacher = "teacher/model"
        output = "student"
        guidance_scale = 1.5
        data = { kind = "folder", path = "pictures", size = 8 }
        generator = { batch = 4, learning_rate = 1e-3, warmup_steps = 2, ema_decay = 0.5 }
        fake = { learning_rate = 1e-3, steps_per_generator_step = 2 }
        matching = { first_timestep = 20, last_timestep = 980 }
        adversarial = { generator_weight = 3e-3, critic_weight = 1e-2, reals = 12 }
        regression = { weight = 1.0, pairs = 8, sampling_steps = 4, warmup_steps = 2 }
        pace = { steps = 6 }
    "#;
    fs::write(here.path().join("distil.toml"), distil).unwrap();
    run(&["distill", "distil.toml"]);
    let logged = losses(&here.path().join("student"));
    assert_eq!(logged.len(), 6);
    assert!(logged[5]["matching"].as_f64().unwrap() > 0.0 && logged[5]["adversarial"].is_number());
    fs::rename(here.path().join("student/unet_one_step"), here.path().join("teacher/model/unet_one_step"))
        .unwrap();
    let settings = fs::read_to_string(here.path().join("teacher/model/unet_one_step/one_step.json")).unwrap();
    assert!(settings.contains("80") && settings.contains("999"), "{settings}");
    run(&["generate", "bright", "dark", "--model", "teacher/model", "--out", "one.png"]);
    run(&["generate", "dark", "--model", "teacher/model", "--steps", "6", "--out", "six.png"]);
    let mean = |name: &str| {
        let picture = image::open(here.path().join(name)).unwrap().to_rgb8();
        picture.pixels().map(|p| f64::from(p.0[0])).sum::<f64>() / 64.0
    };
    // Sixty steps are enough to tell bright from dark.
    assert!(mean("one-1.png") > mean("one-2.png") + 20.0, "{} {}", mean("one-1.png"), mean("one-2.png"));
    let message = refused(here.path(), &["generate", "grey", "--model", "teacher/model"]);
    assert!(message.contains("bright, dark"), "{message}");
    assert!(
        refused(here.path(), &["generate", "dark", "--model", "teacher/model", "--tile", "32"])
            .contains("--tile")
    );
}

/// What is compiled in and found, and what the rest would take.
#[test]
fn devices_are_listed() {
    let here = tempfile::tempdir().unwrap();
    let output = dmd(here.path(), &["devices"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for name in ["flex", "ndarray", "wgpu", "vulkan", "cuda"] {
        assert!(said.lines().any(|line| line.starts_with(name)), "{name} in {said}");
    }
    let flex = said.lines().find(|line| line.starts_with("flex")).unwrap();
    assert!(flex.contains("f32") && flex.contains("bf16") && flex.contains("threads"), "{flex}");
    for line in String::from_utf8_lossy(&dmd(here.path(), &["devices", "--json"]).stdout).lines() {
        let found: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(found["device"].is_string(), "{line}");
    }
    if !dmd::core::device::available().contains(&"cuda") {
        let sentence = refused(here.path(), &["generate", "x", "--device", "cuda:0"]);
        assert!(sentence.contains("--features cuda"), "{sentence}");
    }
}

/// The device under test is right on a tiny model; half precision is told apart from single.
#[test]
fn self_check_of_a_tiny_model() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    let model = model.path().to_str().unwrap();
    let device = std::env::var("DMD_TEST_DEVICE").unwrap_or_else(|_| "flex".to_owned());
    let output = dmd(here.path(), &["self-check", "--all", "--device", &device, "--model", model]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for what in ["convolution 3×3", "attention of", "group norm", "text encoder", "UNet", "decoder"] {
        assert!(said.contains(what), "{what} in {said}");
    }
    if crate::support::device().supports_dtype(burn::tensor::FloatDType::BF16) {
        let output = dmd(
            here.path(),
            &["self-check", "--all", "--dtype", "bf16", "--device", &device, "--model", model],
        );
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("in bf16"), "{said}");
    } else {
        refused(here.path(), &["self-check", "--dtype", "bf16", "--device", &device, "--model", model]);
    }
}
