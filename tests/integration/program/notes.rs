//! What a user should know of a scheduler's file, printed by every command that walks by it.

use std::fs;

use serde_json::{Value, json};

use super::distillation::distillation;
use super::dmd;
use crate::support::tiny_model;

#[test]
fn every_walk_begins_with_the_notes() {
    let model = tiny_model();
    let path = model.path().join("scheduler/scheduler_config.json");
    let mut scheduler: Value = dmd::weights::read_json(&path).unwrap();
    scheduler["clip_sample"] = json!(true);
    scheduler["misspelled"] = json!(1);
    fs::write(&path, scheduler.to_string()).unwrap();

    let here = tempfile::tempdir().unwrap();
    let pictures = here.path().join("pictures");
    fs::create_dir(&pictures).unwrap();
    let mut lines = String::new();
    for name in ["red.png", "blue.png"] {
        image::RgbImage::from_pixel(32, 32, image::Rgb([200, 10, 10])).save(pictures.join(name)).unwrap();
        lines.push_str(&format!("{{\"file_name\": \"{name}\", \"text\": \"a circle\"}}\n"));
    }
    fs::write(pictures.join("metadata.jsonl"), lines).unwrap();
    let mut config = distillation(&model);
    config["output"] = "run".into();
    config["regression"]["pairs"] = 1.into();
    config["regression"]["sampling_steps"] = 1.into();
    // The pairs are made; the distillation is refused once its teacher is open.
    config["matching"]["last_timestep"] = 5000.into();
    fs::write(here.path().join("run.toml"), config.to_string()).unwrap();

    let model = model.path().to_str().unwrap();
    let evaluate = ["evaluate", "--data", "pictures", "--prompts", "2", "--steps", "2", "--model", model];
    for (arguments, notes, succeeds) in [
        (&["generate", "x", "--steps", "2", "--model", model][..], 2, true),
        (&["generate", "x", "--model", model], 0, true),
        (&["compare", "x", "--steps", "2", "--repeats", "1", "--model", model], 2, true),
        (&evaluate, 2, true),
        (&["pairs", "run.toml"], 2, true),
        (&["distill", "run.toml"], 2, false),
    ] {
        let output = dmd(here.path(), arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), succeeds, "{arguments:?}: {said}");
        let found: Vec<&str> = said.lines().filter(|line| line.starts_with("note: ")).collect();
        assert_eq!(found.len(), notes, "{arguments:?}: {said}");
        assert!(
            notes == 0 || (found[0].contains("clip_sample") && found[1].contains("misspelled")),
            "{found:?}"
        );
    }
}
