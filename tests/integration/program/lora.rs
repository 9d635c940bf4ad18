//! `dmd distill` on low-rank updates, and `dmd export`.

use std::fs;
use std::path::Path;

use super::{refused, succeeds};
use crate::support::tiny_model;

/// Ten lines are a whole configuration: everything else is DMD2's.
fn configuration(teacher: &Path, output: &str) -> String {
    format!(
        r#"teacher = {teacher:?}
output = "{output}"
data = {{ kind = "prompts", path = "prompts.txt" }}
[lora]
rank = 2
alpha = 6
layers = ["to_q", "to_v", "conv1", "ff.net.2"]
[generator]
learning_rate = 1e-2
warmup_steps = 0
[pace]
steps = 3
keep = 3
checkpoint_every = 1
"#
    )
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// The largest difference of two pictures' values.
fn difference(a: &Path, b: &Path) -> u8 {
    let pixels = |path: &Path| image::open(path).unwrap().to_rgb8().into_raw();
    pixels(a).iter().zip(pixels(b)).map(|(a, b)| a.abs_diff(b)).max().unwrap()
}

/// From prompts alone: the updates as LoRA files and merged draw the same picture, which is not the teacher's own; a run
/// that is resumed is the same run; an earlier checkpoint can be exported.
#[test]
fn a_lora_from_prompts_alone() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    fs::write(here.path().join("prompts.txt"), "a red circle\na blue square\n").unwrap();
    fs::write(here.path().join("whole.toml"), configuration(model.path(), "whole")).unwrap();
    let succeed = |arguments: &[&str]| succeeds(here.path(), arguments);
    assert!(succeed(&["distill", "whole.toml"]).contains("lora"));
    // The same in two runs, of one step and of two more.
    let parts = configuration(model.path(), "parts");
    fs::write(here.path().join("parts.toml"), parts.replace("steps = 3", "steps = 1")).unwrap();
    succeed(&["distill", "parts.toml"]);
    fs::write(here.path().join("parts.toml"), parts).unwrap();
    succeed(&["distill", "parts.toml"]);
    let at = |name: &str| here.path().join(name);
    for name in ["generator", "fake", "generator_optimizer", "fake_optimizer"] {
        let file = |run: &str| read(&at(run).join(format!("checkpoints/distillation/{name}.safetensors")));
        assert!(file("whole") == file("parts"), "{name} differs after resuming");
        // Of the networks the updates alone are kept: 840 tensors otherwise.
        assert!(file("whole").len() < 400_000, "{name} has {} bytes", file("whole").len());
    }

    // In single precision, so that what differs is the order of sums.
    succeed(&["export", "whole", "--precision", "f32", "--out", "exported"]);
    let teacher = model.path().to_str().unwrap();
    fs::remove_dir_all(model.path().join("unet_one_step")).unwrap();
    let draw = |out: &str, more: &[&str]| {
        let shared = ["generate", "a red circle", "--model", teacher, "--size", "32x32", "--out", out];
        succeed(&[&shared[..], more].concat());
    };
    draw("merged.png", &["--generator", "exported/unet_one_step"]);
    for (out, file) in [("peft.png", "pytorch_lora_weights"), ("kohya.png", "kohya")] {
        let file = format!("exported/lora/{file}.safetensors");
        draw(out, &["--lora", &file, "--recipe", "dmd2-1step"]);
        assert!(difference(&at("merged.png"), &at(out)) <= 1, "{out}");
    }
    draw("teacher.png", &["--generator", &format!("{teacher}/unet"), "--recipe", "dmd2-1step"]);
    assert!(difference(&at("merged.png"), &at("teacher.png")) > 1, "the updates do nothing");

    // An earlier step is another generator.
    succeed(&["export", "whole", "--step", "1", "--precision", "f32", "--out", "first"]);
    let weights = |folder: &str| read(&at(folder).join("unet_one_step/diffusion_pytorch_model.safetensors"));
    assert!(weights("first") != weights("exported"));
    assert!(refused(here.path(), &["export", "whole", "--step", "9"]).contains("of the steps 3, 1, 2"));
    // A layer that the network has not is named.
    let wrong = configuration(model.path(), "wrong").replace("\"to_v\"", "\"to_w\"");
    fs::write(here.path().join("wrong.toml"), wrong).unwrap();
    assert!(refused(here.path(), &["distill", "wrong.toml"]).contains("\"to_w\""));
}
