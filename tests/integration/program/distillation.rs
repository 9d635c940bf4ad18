//! `dmd pairs`, `dmd distill` and `dmd report` on a tiny model.

use std::fs;
use std::path::Path;

use super::{dmd, losses, refused};
use crate::support::tiny_model;

/// The shipped configuration, for another teacher, without what a test adds itself.
pub(super) fn distillation(teacher: &tempfile::TempDir) -> toml::Table {
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
    let mut logs = Vec::new();
    for _ in 0..2 {
        let output = dmd(here.path(), &["distill", "run.toml"]);
        logs.push(String::from_utf8_lossy(&output.stderr).into_owned());
        assert!(output.status.success(), "{}", logs[logs.len() - 1]);
    }
    // Without a terminal there are lines in place of a bar: where the run is, how fast, how long it will take.
    let last = logs[0].lines().find(|line| line.starts_with("distillation 2/2")).unwrap_or(&logs[0]);
    assert!(last.contains("step") && last.contains("left") && last.contains("regression"), "{last}");
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
    for part in ["<svg", "data:image/png;base64,", ">regression<", "gradient_norm", "guidance_scale = 2.0"] {
        assert!(page.contains(part), "the page has no {part}");
    }
    assert!(!page.contains("http"), "the page needs nothing from elsewhere");
    // Random weights make samples far from unit variance: the alarm for it rings.
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("sample_deviation is") && text.contains("contrast is wrong"), "{text}");
    assert!(refused(here.path(), &["report", "nowhere"]).contains("metrics.jsonl"));
}

/// Writes `whole.toml` and `shared.toml`, which differ in their output alone: 300 pairs, quick to make.
pub(super) fn whole_and_shared(here: &Path, model: &tempfile::TempDir) {
    let mut config = distillation(model);
    config["regression"]["pairs"] = 300.into();
    config["regression"]["sampling_steps"] = 1.into();
    for output in ["whole", "shared"] {
        config["output"] = output.into();
        fs::write(here.join(format!("{output}.toml")), config.to_string()).unwrap();
    }
}

/// Two machines' shares of the pairs are, file by file, what one machine makes.
#[test]
fn pairs_in_shares_are_the_pairs() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    whole_and_shared(here.path(), &model);
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
    // Far more steps than are waited for, so that no kill comes after the end.
    config["pace"]["steps"] = 20.into();
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
        while losses(&killed).len() < reached {
            assert!(start.elapsed().as_secs() < 300, "the run does not reach step {reached}");
            assert!(child.try_wait().unwrap().is_none(), "the run ended before it was killed");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(!status.success(), "the run was done before it was killed at step {reached}");
    }
    assert!(dmd(here.path(), &["distill", "killed.toml"]).status.success());
    let (whole_losses, killed_losses) = (losses(&whole), losses(&killed));
    assert_eq!(whole_losses.len(), 21, "twenty steps and a probe");
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
    assert!(
        refused(here.path(), &["distill", "run.toml"])
            .contains("pictures of the size that the teacher was trained on")
    );

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
    // Without --steps the generator takes its own.
    let output = dmd(here.path(), &["generate", "x", "--model", at]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(refused(here.path(), &["generate", "x", "--steps", "1", "--model", at]).contains("4 steps"));
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

/// Three pictures in a folder, and the section that names them.
pub(super) fn pictures(here: &Path) -> toml::Value {
    let pictures = here.join("pictures");
    fs::create_dir(&pictures).unwrap();
    let mut lines = String::new();
    for i in 0..3_u8 {
        image::RgbImage::from_pixel(32, 32, image::Rgb([80 * i, 200, 30]))
            .save(pictures.join(format!("{i}.png")))
            .unwrap();
        lines.push_str(&format!("{{\"file_name\": \"{i}.png\", \"text\": \"picture {i}\"}}\n"));
    }
    fs::write(pictures.join("metadata.jsonl"), lines).unwrap();
    toml::toml! { kind = "folder"
    path = "pictures"
    size = 32 }
    .into()
}

/// Each objective trains, and changes the generator's loss and nothing before it; what it needs is asked for at the start.
#[test]
fn newer_objectives() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    let mut config = distillation(&model);
    config.remove("regression");
    config["data"] = pictures(here.path());
    config["generator"]["batch"] = 2.into();
    config["generator"].as_table_mut().unwrap().insert("warmup_steps".to_owned(), 0.into());
    config["fake"]["steps_per_generator_step"] = 1.into();
    config["pace"]["steps"] = 2.into();
    config["pace"].as_table_mut().unwrap().insert("log_every".to_owned(), 1.into());
    let adversarial = toml::toml! { generator_weight = 1e-3
    critic_weight = 1e-2
    reals = 2 };
    let run = |output: &str, sections: &str| {
        let mut config = config.clone();
        config["output"] = output.into();
        let more: toml::Table = sections.parse().unwrap();
        for (section, values) in &more {
            match (config.get_mut(section).and_then(toml::Value::as_table_mut), values.as_table()) {
                (Some(own), Some(values)) => own.extend(values.clone()),
                _ => drop(config.insert(section.clone(), values.clone())),
            }
        }
        if output == "critic" {
            config.insert("adversarial".to_owned(), adversarial.clone().into());
        }
        fs::write(here.path().join("run.toml"), config.to_string()).unwrap();
        dmd(here.path(), &["distill", "run.toml"])
    };
    let steps = |output: &str, sections: &str| {
        let _ = fs::remove_dir_all(here.path().join(output));
        let ran = run(output, sections);
        assert!(ran.status.success(), "{sections}: {}", String::from_utf8_lossy(&ran.stderr));
        losses(&here.path().join(output))
    };
    let plain = [steps("plain", ""), steps("critic", "")];
    let objectives = [
        ("plain", "matching.objective = { score_identity = { alpha = 1.2 } }"),
        (
            "plain",
            "matching.objective = { decoupled_guidance = { first_timestep = 20, last_timestep = 500 } }",
        ),
        ("critic", "matching.objective = { f_divergence = \"forward_kl\" }"),
    ];
    for (output, objective) in objectives {
        let (own, plain) = (steps(output, objective), &plain[usize::from(output == "critic")]);
        assert_eq!(own.len(), 2, "{objective}");
        assert_ne!(own[0]["matching"], plain[0]["matching"], "{objective}");
        assert_eq!(own[0]["sample_mean"], plain[0]["sample_mean"], "{objective}");
        assert_ne!(own[1]["sample_mean"], plain[1]["sample_mean"], "{objective}");
    }
    let aligned = steps("plain", "fake.alignment = 0.03");
    assert_eq!(aligned[0]["matching"], plain[0][0]["matching"], "it is mixed after the generator's update");
    assert_ne!(aligned[0]["fake"], plain[0][0]["fake"]);

    let says = |sections: &str, words: &[&str]| {
        let ran = run("wrong", sections);
        let message = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(!ran.status.success() && words.iter().all(|word| message.contains(word)), "{message}");
    };
    let of_pairs = "regression = { weight = 0.25, pairs = 2, sampling_steps = 2, warmup_steps = 0 }";
    says(&format!("generator.batch = 1\n{of_pairs}"), &["generator.batch", "half of a batch is pairs"]);
    says("matching.objective = { f_divergence = \"hellinger\" }", &["matching.objective", "[adversarial]"]);
    let critic = "adversarial = { reals = 2, last_timestep = 400 }";
    let divergence = "matching.objective = { f_divergence = \"hellinger\" }";
    says(&format!("{critic}\n{divergence}"), &["matching.objective", "adversarial.last_timestep"]);
    let identity = "matching.objective = { score_identity = { alpha = 1.0 } }";
    says(&format!("teacher_precision = \"f16\"\n{identity}"), &["matching.objective", "f16"]);
    let decoupled =
        "matching.objective = { decoupled_guidance = { first_timestep = 20, last_timestep = LAST } }";
    let decoupled = |last: &str| decoupled.replace("LAST", last);
    says(&format!("guidance_scale = 1.0\n{}", decoupled("500")), &["matching.objective", "guidance_scale"]);
    says(&decoupled("19"), &["matching.objective", "20 to 19"]);
    says(&decoupled("1000"), &["matching.objective", "1000 of 999"]);
    says(
        "matching.objective = { score_identity = { alpha = 1.0 } }\nmatching.weighting = \"sigma_over_alpha\"",
        &["matching.objective", "its own"],
    );
    says("matching.objective = { score_identity = { alpha = -1.0 } }", &["matching.objective", "at least 0"]);
    says("matching.objective = \"newest\"", &["newest"]);
    says("fake.alignment = 1.0", &["fake.alignment", "between 0 and 1"]);
    says("fake.alignment = 0.1\nlora = { rank = 2 }", &["fake.alignment", "[lora]"]);
    assert!(!here.path().join("wrong/checkpoints").exists(), "a refused run has written a checkpoint");
}

/// The distribution of noise levels is an option of the matching term and of the fake score. It changes what is learnt,
/// so that a run does not go on with another one, and what has no sense is refused by name.
#[test]
fn distributions_of_noise_levels() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    let mut config = distillation(&model);
    config.remove("regression");
    config["generator"]["batch"] = 2.into();
    config["fake"]["steps_per_generator_step"] = 1.into();
    config["pace"]["steps"] = 1.into();
    config["pace"].as_table_mut().unwrap().insert("log_every".to_owned(), 1.into());
    let value =
        |text: &str| toml::from_str::<toml::Table>(&format!("times = {text}")).unwrap()["times"].clone();
    let run = |output: &str, matching: &str, fake: &str| {
        let mut config = config.clone();
        config["output"] = output.into();
        config["matching"].as_table_mut().unwrap().insert("times".to_owned(), value(matching));
        config["fake"].as_table_mut().unwrap().insert("times".to_owned(), value(fake));
        fs::write(here.path().join("run.toml"), config.to_string()).unwrap();
        dmd(here.path(), &["distill", "run.toml"])
    };
    let first = |output: &str, matching: &str, fake: &str| {
        let ran = run(output, matching, fake);
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        losses(&here.path().join(output))[0].clone()
    };
    let (shifted, normal) = ("{ shifted = { shift = 3.0 } }", "{ log_normal = { mean = -1.2, std = 1.2 } }");
    let uniform = first("uniform", "\"uniform\"", "\"uniform\"");
    let left_out = {
        fs::write(here.path().join("plain.toml"), {
            let mut config = config.clone();
            config["output"] = "plain".into();
            config.to_string()
        })
        .unwrap();
        assert!(dmd(here.path(), &["distill", "plain.toml"]).status.success());
        losses(&here.path().join("plain"))[0].clone()
    };
    assert_eq!(uniform, left_out);
    // Each option changes its own term. The generator's sample is the same, so its mean is.
    let matched = first("matched", shifted, "\"uniform\"");
    assert_ne!(matched["matching"], uniform["matching"]);
    assert_eq!(matched["sample_mean"], uniform["sample_mean"]);
    let faked = first("faked", "\"uniform\"", normal);
    assert_eq!(faked["matching"], uniform["matching"]);
    assert_ne!(faked["fake"], uniform["fake"]);
    // The same run again is the same.
    assert_eq!(first("again", shifted, "\"uniform\""), matched);

    let says = |output: &str, matching: &str, fake: &str, words: &[&str]| {
        let ran = run(output, matching, fake);
        let message = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(!ran.status.success() && words.iter().all(|word| message.contains(word)), "{message}");
    };
    says(
        "matched",
        "{ shifted = { shift = 2.0 } }",
        "\"uniform\"",
        &["matching.times.shifted.shift", "3", "2"],
    );
    says("faked", "\"uniform\"", "\"uniform\"", &["fake.times"]);
    says("wrong", "{ shifted = { shift = 0.0 } }", "\"uniform\"", &["matching.times", "a positive shift"]);
    says(
        "wrong",
        "\"uniform\"",
        "{ log_normal = { mean = 0.0, std = -1.0 } }",
        &["fake.times", "a positive std"],
    );
    says(
        "wrong",
        "{ log_normal = { mean = 30.0, std = 0.1 } }",
        "\"uniform\"",
        &["matching.times", "reaches"],
    );
    says("wrong", "{ shifted = { by = 2.0 } }", "\"uniform\"", &["by"]);
    says("wrong", "\"normal\"", "\"uniform\"", &["normal"]);
    assert!(!here.path().join("wrong/checkpoints").exists(), "a refused run has written a checkpoint");
}
