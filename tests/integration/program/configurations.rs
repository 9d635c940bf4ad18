//! The shipped configurations of full-size models, at tiny sizes.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{losses, succeeds};
use crate::opening::class_model;
use crate::support::{golden, tiny_model};

/// Copies the folders of a model.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = (entry.as_ref().unwrap().path(), entry.unwrap().file_name());
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

/// Four pictures with their captions.
fn pictures(folder: &Path, size: u32, captions: [&str; 4]) {
    fs::create_dir(folder).unwrap();
    let mut lines = String::new();
    for (i, caption) in captions.iter().enumerate() {
        let picture =
            image::RgbImage::from_fn(size, size, |x, y| image::Rgb([x as u8, y as u8, 60 * i as u8]));
        picture.save(folder.join(format!("{i}.png"))).unwrap();
        lines.push_str(&format!("{{\"file_name\": \"{i}.png\", \"text\": \"{caption}\"}}\n"));
    }
    fs::write(folder.join("metadata.jsonl"), lines).unwrap();
}

/// The configuration with small counts. Teacher, data and options stay.
fn small(name: &str, size: i64) -> toml::Table {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name);
    let mut config: toml::Table = fs::read_to_string(shipped).unwrap().parse().unwrap();
    for (section, key, value) in [
        ("generator", "batch", 2),
        ("generator", "accumulate", 2),
        ("generator", "warmup_steps", 0),
        ("fake", "steps_per_generator_step", 2),
        ("regression", "pairs", 4),
        ("regression", "sampling_steps", 2),
        ("adversarial", "reals", 4),
        ("lora", "rank", 2),
        ("pace", "steps", 2),
        ("pace", "checkpoint_every", 1),
    ] {
        // A section that a file leaves out has nothing large, but for the fake score's ten updates.
        match config.get_mut(section).and_then(toml::Value::as_table_mut) {
            Some(section) => drop(section.insert(key.to_owned(), value.into())),
            None if section == "fake" => {
                drop(config.insert(section.to_owned(), toml::toml! { steps_per_generator_step = 2 }.into()))
            }
            None => {}
        }
    }
    config["pace"].as_table_mut().unwrap().insert("log_every".to_owned(), 1.into());
    if config["data"].get("size").is_some() {
        config["data"].as_table_mut().unwrap().insert("size".to_owned(), size.into());
    }
    // Its networks are files of full size.
    if let Some(regression) = config.get_mut("regression") {
        regression.as_table_mut().unwrap().remove("perceptual").unwrap();
    }
    config
}

/// Each of them trains and writes a generator that draws, called as the configuration says.
#[test]
fn shipped_configurations_run_at_tiny_sizes() {
    let home = tempfile::tempdir().unwrap();
    let here = home.path();
    copy(tiny_model().path(), &here.join("SD15"));
    copy(&golden("sdxl"), &here.join("SDXL"));
    copy(class_model("class_unet").path(), &here.join("CIFAR10"));
    copy(class_model("class_unet_adm").path(), &here.join("IMAGENET64"));
    let draft = json!({ "_class_name": "KarrasEDMScheduler", "prediction_type": "sample",
        "precondition_type": "cm_edm" });
    fs::write(here.join("IMAGENET64/scheduler/scheduler_config.json"), draft.to_string()).unwrap();
    fs::write(here.join("prompts.txt"), "a red circle\na blue square\n").unwrap();
    fs::write(here.join("classes.txt"), "0\n1\n2\n3\n4\n").unwrap();
    pictures(&here.join("imagenet64"), 8, ["0", "1", "2", "3"]);
    let words = ["a red circle", "a blue square", "a green star", "a circle"];

    let runs: [(&str, &[u64], u32, &str); 8] = [
        ("sd15-one-step.toml", &[999], 32, "SD15"),
        // From the networks of the run before.
        ("sd15-one-step-real.toml", &[999], 32, "SD15"),
        ("sd15-four-step.toml", &[999, 749, 499, 249], 32, "SD15"),
        ("sd15-lora-24gb.toml", &[999, 749, 499, 249], 32, "SD15"),
        ("sd15-lora-16gb.toml", &[999, 749, 499, 249], 32, "SD15"),
        ("sdxl-lora.toml", &[999, 749, 499, 249], 64, "SDXL"),
        ("cifar10-one-step.toml", &[999], 8, "CIFAR10"),
        ("imagenet64-one-step.toml", &[999], 8, "IMAGENET64"),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut full: Vec<String> =
        names.filter(|name| !name.starts_with("shapes") && !name.contains("teacher")).collect();
    let mut named = runs.map(|(name, ..)| name.to_owned());
    full.sort();
    named.sort();
    assert_eq!(full, named, "a configuration is not run here");

    for (name, timesteps, size, teacher) in runs {
        let config = small(name, size.into());
        if teacher.starts_with("SD") {
            let _ = fs::remove_dir_all(here.join("pictures"));
            pictures(&here.join("pictures"), size, words);
        }
        fs::write(here.join(name), config.to_string()).unwrap();
        assert_eq!(config["teacher"].as_str(), Some(teacher), "{name}");
        let printed = succeeds(here, &["distill", name]);
        let run = here.join(config["output"].as_str().unwrap());
        let logged = losses(&run);
        let logged: Vec<&Value> = logged.iter().filter(|line| line["fake"].is_number()).collect();
        assert_eq!(logged.len(), 2, "{name}");
        for (line, (key, section)) in logged.iter().flat_map(|line| {
            let terms = [("matching", "pace"), ("regression", "regression"), ("adversarial", "adversarial")];
            terms.map(|term| (line, term))
        }) {
            let found = line[key].as_f64().is_some_and(f64::is_finite);
            assert_eq!(found, config.contains_key(section), "{name}: {key} of {line}");
        }
        let recipe = fs::read_to_string(run.join("unet_one_step/one_step.json")).unwrap();
        let recipe: Value = serde_json::from_str(&recipe).unwrap();
        assert_eq!(recipe["timestep"], timesteps[0], "{name}");
        assert_eq!(
            recipe["timesteps"],
            if timesteps.len() > 1 { json!(timesteps) } else { Value::Null },
            "{name}"
        );
        let pixels = !teacher.starts_with("SD");
        assert_eq!(recipe["noise_scale"], if pixels { 80.0 } else { 1.0 }, "{name}");
        let prompt = if pixels { "1" } else { "a red circle" };
        let generator = run.join("unet_one_step");
        let drawn = ["generate", prompt, "--model", teacher, "--generator", generator.to_str().unwrap()];
        succeeds(here, &[&drawn[..], &["--out", "drawn.png"]].concat());
        let drawn = image::open(here.join("drawn.png")).unwrap();
        assert_eq!((drawn.width(), drawn.height()), (size, size), "{name}");
        let lora = run.join("lora/kohya.safetensors").is_file();
        assert_eq!(lora, config.contains_key("lora"), "{name}: {printed}");
    }
}
