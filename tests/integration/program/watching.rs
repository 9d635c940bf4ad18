//! `dmd distill` with `[evaluation]`, and `dmd evaluate` of its checkpoints.

use std::fs;
use std::path::Path;

use super::{dmd, losses, refused, succeeds};
use crate::support::tiny_model;

/// Five pictures of the size that the tiny model draws.
fn pictures(folder: &Path) {
    fs::create_dir(folder).unwrap();
    let line = |i: u8| {
        let picture = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([40 * i, 8 * x as u8, 6 * y as u8]));
        picture.save(folder.join(format!("{i}.png"))).unwrap();
        format!("{{\"file_name\": \"{i}.png\", \"text\": \"picture {i}\"}}\n")
    };
    fs::write(folder.join("metadata.jsonl"), (0..5).map(line).collect::<String>()).unwrap();
}

fn configuration(teacher: &Path, output: &str, more: &str) -> String {
    format!(
        r#"teacher = {teacher:?}
output = "{output}"
data = {{ kind = "folder", path = "pictures", size = 32 }}
[generator]
batch = 2
learning_rate = 1e-3
warmup_steps = 0
[fake]
steps_per_generator_step = 1
{more}
"#
    )
}

/// An evaluated run learns, bit by bit, what a run without evaluations does; stopped and resumed it has the same
/// evaluations; and its checkpoints can be measured by their steps.
#[test]
fn a_run_is_evaluated() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    pictures(&here.path().join("pictures"));
    let distil = |output: &str, more: &str| {
        let name = format!("{output}.toml");
        fs::write(here.path().join(&name), configuration(model.path(), output, more)).unwrap();
        let output = dmd(here.path(), &["distill", &name]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    let evaluated = |steps: usize| {
        format!(
            "[evaluation]\nevery = 2\nprompts = 6\nreals = 4\n[pace]\nsteps = {steps}\nkeep = 3\ntensorboard = true"
        )
    };
    distil("plain", "[pace]\nsteps = 3\n");
    let said = distil("whole", &evaluated(3));
    for step in ["distillation 2/3", "distillation 3/3"] {
        let line = |line: &str| line.starts_with(&format!("{step} evaluated  frechet_random_conv "));
        assert!(said.lines().any(line), "{said}");
    }
    distil("parts", &evaluated(2));
    distil("parts", &evaluated(3));
    let run = |name: &str| losses(&here.path().join(name));
    let split = |name: &str| -> (Vec<_>, Vec<_>) {
        run(name).into_iter().partition(|line| line["frechet_random_conv"].is_null())
    };
    let ((plain, none), (whole, evaluations)) = (split("plain"), split("whole"));
    assert_eq!((plain.len(), none.len()), (3, 0));
    assert_eq!(plain, whole, "evaluations change the losses");
    for name in ["generator", "fake", "generator_optimizer"] {
        let file = |run: &str| {
            fs::read(here.path().join(run).join(format!("checkpoints/distillation/{name}.safetensors")))
                .unwrap()
        };
        assert!(file("plain") == file("whole"), "evaluations change {name}");
    }
    let steps: Vec<_> = evaluations.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [2, 3]);
    let distance = |line: &serde_json::Value| line["frechet_random_conv"].as_f64().unwrap();
    assert!(evaluations.iter().all(|line| distance(line) > 0.0));
    assert_ne!(distance(&evaluations[0]), distance(&evaluations[1]));
    // The last step of the shorter session was evaluated then, as its last; it is not evaluated again.
    assert_eq!(split("parts").1, evaluations);
    assert!(here.path().join("whole/tensorboard/distillation").is_dir());
    assert!(!here.path().join("plain/tensorboard").exists());

    // A checkpoint by its step, against the same files by name.
    let evaluate = |more: &[&str]| {
        let said = succeeds(here.path(), &[&["evaluate", "--prompts", "4", "--steps", "1"], more].concat());
        said.lines().find(|line| line.contains("Fréchet")).unwrap().to_owned()
    };
    let by_name = ["--model", model.path().to_str().unwrap(), "--data", "pictures", "--generator"];
    let last = evaluate(&["--run", "whole"]);
    assert_eq!(last, evaluate(&[&by_name[..], &["whole/unet_one_step"]].concat()));
    succeeds(here.path(), &["export", "whole", "--step", "2", "--out", "second"]);
    let second = evaluate(&["--run", "whole", "--checkpoint", "2"]);
    assert_eq!(second, evaluate(&[&by_name[..], &["second/unet_one_step"]].concat()));
    assert_ne!(second, last);
    let left = fs::read_dir(here.path().join("whole")).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| name.starts_with("evaluated-")).count(), 0);
    let sentence = refused(here.path(), &["evaluate", "--run", "whole", "--checkpoint", "9"]);
    assert!(sentence.contains("no checkpoint of step 9"), "{sentence}");
    assert!(refused(here.path(), &["evaluate", "--checkpoint", "2"]).contains("--run"));
    assert!(refused(here.path(), &["evaluate", "--run", "whole", "--model", "x"]).contains("--model"));

    // Both runs on one page.
    let said = succeeds(here.path(), &["report", "plain", "whole"]);
    assert!(said.contains("wrote report.html"), "{said}");
    let page = fs::read_to_string(here.path().join("report.html")).unwrap();
    assert!(page.contains("frechet_random_conv") && page.contains("whole: "));
    let nine: Vec<&str> = std::iter::once("report").chain(["whole"; 9]).collect();
    assert!(refused(here.path(), &nine).contains("at most 8 runs"));
    fs::write(
        here.path().join("wrong.toml"),
        configuration(model.path(), "wrong", "[evaluation]\nevery = 0\n[pace]\nsteps = 1"),
    )
    .unwrap();
    assert!(refused(here.path(), &["distill", "wrong.toml"]).contains("evaluation.every"));
}
