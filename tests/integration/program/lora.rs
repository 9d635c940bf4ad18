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
        // The file says itself how it is called, whatever its name.
        fs::copy(at(&file), at("renamed.safetensors")).unwrap();
        draw("own.png", &["--lora", "renamed.safetensors"]);
        assert_eq!(difference(&at("own.png"), &at(out)), 0, "{out} without a recipe");
    }
    let peft = dmd::weights::read(&at("exported/lora/pytorch_lora_weights.safetensors")).unwrap();
    assert_eq!(
        peft.metadata().keys().map(String::as_str).collect::<Vec<_>>(),
        ["dmd_recipe", "format", "lora_adapter_metadata"]
    );
    let recipe = r#"{"timestep":999,"noise_scale":1.0,"guidance_scale":1.75}"#;
    assert_eq!(peft.metadata()["dmd_recipe"], recipe);
    assert!(succeed(&["inspect", "renamed.safetensors"]).contains(recipe));
    // A folder with the updates merged is called so too.
    succeed(&["convert", teacher, "folder", "--lora", "renamed.safetensors"]);
    assert!(String::from_utf8_lossy(&read(&at("folder/unet/one_step.json"))).contains("\"timestep\": 999"));
    let shared = ["generate", "a red circle", "--model", "folder", "--size", "32x32", "--out", "folder.png"];
    succeed(&shared);
    assert!(difference(&at("folder.png"), &at("merged.png")) <= 1, "the converted folder");
    // A recipe that is damaged is said, and what a user asks for is done.
    let broken = read(&at("exported/lora/kohya.safetensors"));
    let text = String::from_utf8_lossy(&broken[8..]).into_owned();
    let place = 8 + text.find("timestep").unwrap();
    let mut broken = broken;
    broken[place..place + 8].copy_from_slice(b"timestop");
    fs::write(at("broken.safetensors"), broken).unwrap();
    let drawn = ["generate", "x", "--model", teacher, "--lora", "broken.safetensors"];
    let message = refused(here.path(), &drawn);
    assert!(message.contains("broken.safetensors") && message.contains("timestop"), "{message}");
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

/// A second run starts from the LoRA files of a first one, with another alpha; files that do not fit its section are
/// refused.
#[test]
fn a_run_from_lora_files() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    fs::write(here.path().join("prompts.txt"), "a red circle\n").unwrap();
    let first = configuration(model.path(), "first");
    fs::write(here.path().join("first.toml"), &first).unwrap();
    succeeds(here.path(), &["distill", "first.toml"]);
    let starts = |lora: &str| {
        let fake = "\n[fake]\nlearning_rate = 1e-12\nsteps_per_generator_step = 1\n                    start = \"exported/fake_score/pytorch_lora_weights.safetensors\"\n[pace]";
        let text =
            first.replace("output = \"first\"", "output = \"second\"").replace("steps = 3", "steps = 1");
        let start = format!("learning_rate = 1e-12\nstart = \"exported/lora/{lora}.safetensors\"");
        text.replace("learning_rate = 1e-2", &start).replace("\n[pace]", fake)
    };
    succeeds(here.path(), &["export", "first", "--precision", "f32", "--out", "exported"]);
    let tensors = |folder: &str| {
        let file = here.path().join(folder).join("diffusion_pytorch_model.safetensors");
        dmd::weights::read(&file).unwrap()
    };
    // Largest differences of the weights that both have.
    let apart = |a: &str, b: &str| {
        let (a, b) = (tensors(a), tensors(b));
        let largest = |name: &String| {
            let pairs = a.floats(name).unwrap().into_iter().zip(b.floats(name).unwrap());
            pairs.map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max)
        };
        a.entries().keys().map(largest).fold(0.0_f32, f32::max)
    };
    for (lora, alpha) in [("kohya", "alpha = 6"), ("pytorch_lora_weights", "alpha = 3")] {
        fs::write(here.path().join("second.toml"), starts(lora).replace("alpha = 6", alpha)).unwrap();
        succeeds(here.path(), &["distill", "second.toml"]);
        succeeds(here.path(), &["export", "second", "--precision", "f32", "--out", "again"]);
        // A step at this rate moves nothing; the sums of merging differ in their last bits.
        for part in ["unet_one_step", "fake_score"] {
            let found = apart(&format!("exported/{part}"), &format!("again/{part}"));
            assert!(found < 1e-6, "{lora}: {part} is {found} from where it started");
        }
        for folder in ["second", "again"] {
            fs::remove_dir_all(here.path().join(folder)).unwrap();
        }
    }
    assert!(apart("exported/unet_one_step", "exported/fake_score") > 1e-4, "both starts are the same");

    let refuses = |change: (&str, &str), words: &[&str]| {
        let text = starts("kohya");
        assert!(text.contains(change.0), "{}", change.0);
        fs::write(here.path().join("wrong.toml"), text.replace(change.0, change.1)).unwrap();
        let message = refused(here.path(), &["distill", "wrong.toml"]);
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    refuses(("rank = 2", "rank = 3"), &["kohya.safetensors", "rank is 2", "lora.rank is 3"]);
    refuses(("\"conv1\", ", ""), &["kohya.safetensors", "conv1", "the [lora] does not"]);
    refuses(("\"to_v\"", "\"to_v\", \"to_k\""), &["kohya.safetensors", "to_k", "the file does not"]);
    let section = "[lora]\nrank = 2\nalpha = 6\nlayers = [\"to_q\", \"to_v\", \"conv1\", \"ff.net.2\"]\n";
    refuses((section, ""), &["generator.start", "[lora]"]);
    let whole = ("lora/kohya.safetensors", "unet_one_step/diffusion_pytorch_model.safetensors");
    refuses(whole, &["generator.start", "unet_one_step", "a LoRA file"]);
}
