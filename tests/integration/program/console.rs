//! What every command shares: prompts from lists, figures as JSON, pictures to standard output and to terminals, how much is
//! printed, completions, exit statuses.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::{dmd, refused, succeeds};
use crate::support::tiny_model;

/// Runs with a text as standard input.
fn fed(folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_dmd"));
    let program = program.current_dir(folder).args(arguments);
    let mut child =
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The objects that a command prints with `--json`; nothing else may stand between them.
fn objects(said: &str) -> Vec<Value> {
    said.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect()
}

#[test]
fn lists_of_prompts() {
    let model = tiny_model();
    let model = model.path().to_str().unwrap();
    let here = tempfile::tempdir().unwrap();
    fs::write(here.path().join("list.txt"), "a red circle\n\n a blue square \n").unwrap();
    fs::write(here.path().join("list.jsonl"), "{\"caption\": \"a cross\"}\n{\"prompt\": \"a star\"}\n")
        .unwrap();
    let drawn = |output: &Output| -> Vec<String> {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let all = objects(&String::from_utf8_lossy(&output.stdout));
        all.iter().filter_map(|line| Some(line.get("prompt")?.as_str()?.to_owned())).collect()
    };
    let draw = |rest: &[&str], input: &str| {
        let output = fed(here.path(), &[&["generate", "--json", "--model", model], rest].concat(), input);
        drawn(&output)
    };
    assert_eq!(draw(&["--prompts", "list.txt"], ""), ["a red circle", "a blue square"]);
    assert_eq!(draw(&["one", "--prompts", "list.jsonl"], ""), ["one", "a cross", "a star"]);
    assert_eq!(draw(&["-"], "two\n\nthree\n"), ["two", "three"]);
    assert_eq!(draw(&["--prompts", "-"], "four"), ["four"]);

    let output = fed(here.path(), &["generate", "-", "--model", model], " \n");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("standard input") && said.contains("no prompt"),
        "{said}"
    );
    fs::write(here.path().join("wrong.jsonl"), "{\"words\": \"a cross\"}\n").unwrap();
    let said = refused(here.path(), &["generate", "--prompts", "wrong.jsonl", "--model", model]);
    assert!(said.contains("wrong.jsonl") && said.contains("line 1"), "{said}");
    let output = dmd(here.path(), &["generate"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn figures_as_json() {
    let model = tiny_model();
    let model = model.path().to_str().unwrap();
    let here = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| objects(&succeeds(here.path(), arguments));

    let drawn = run(&["generate", "x", "y", "--seed", "4", "--json", "--model", model]);
    assert_eq!(drawn.len(), 3);
    assert_eq!(drawn[1]["path"], "picture-2.png");
    assert_eq!((drawn[1]["seed"].as_u64(), drawn[1]["width"].as_u64()), (Some(5), Some(32)));
    let parts = ["text_ms", "denoising_ms", "decoding_ms"].map(|name| drawn[2][name].as_f64().unwrap());
    let total = drawn[2]["total_ms"].as_f64().unwrap();
    assert!(
        total > 0.0 && (parts.iter().sum::<f64>() - total).abs() < 1e-6 * total.max(1.0),
        "{:?}",
        drawn[2]
    );

    let [compared] = <[Value; 1]>::try_from(run(&[
        "compare",
        "x",
        "--steps",
        "3",
        "--repeats",
        "1",
        "--json",
        "--model",
        model,
    ]))
    .unwrap();
    let ms = |method: &str| compared[method]["median_ms"].as_f64().unwrap();
    assert_eq!(compared["teacher"]["steps"], 3);
    assert!((compared["ratio"].as_f64().unwrap() - ms("teacher") / ms("generator")).abs() < 1e-9);

    let shown = &run(&["inspect", model, "--json"])[0];
    let part =
        |name: &str| shown["parts"].as_array().unwrap().iter().find(|part| part["name"] == name).unwrap();
    assert!(
        part("unet")["weights"]["parameters"].as_u64().unwrap() > 1000
            && shown["problems"] == Value::Array(Vec::new())
    );
    let tensors = &run(&["inspect", model, "--json", "--tensors"])[0]["parts"];
    let listed = tensors.as_array().unwrap().iter().find(|part| part["name"] == "unet").unwrap();
    let shape = &listed["weights"]["tensors"]["conv_in.weight"]["shape"];
    assert_eq!(shape.as_array().unwrap().len(), 4, "{shape}");

    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/sd15-lora-24gb.toml");
    let config = config.to_str().unwrap();
    let plan = &run(&["plan", config, "--teacher", "sd15", "--json"])[0];
    let bytes = |items: &str| -> u64 {
        plan[items].as_array().unwrap().iter().map(|item| item["bytes"].as_u64().unwrap()).sum()
    };
    assert_eq!(plan["disk_bytes"].as_u64().unwrap(), bytes("disk"));
    let peak = plan["peak_bytes"].as_u64().unwrap();
    assert!(bytes("lasting") < peak && peak <= bytes("lasting") + bytes("phases"), "{plan}");
    assert_eq!(plan["fits"].as_bool().unwrap(), plan["refusal"].is_null());

    for line in run(&["devices", "--json"]) {
        assert!(line["device"].is_string(), "{line}");
    }
}

/// `--out -`: the same picture as in a file, and no line beside it.
#[test]
fn a_picture_to_standard_output() {
    let model = tiny_model();
    let model = model.path().to_str().unwrap();
    let here = tempfile::tempdir().unwrap();
    let arguments = ["generate", "x", "--seed", "3", "--model", model];
    succeeds(here.path(), &[&arguments[..], &["--out", "one.png"]].concat());
    let output = dmd(here.path(), &[&arguments[..], &["--out", "-"]].concat());
    let found = image::load_from_memory_with_format(&output.stdout, image::ImageFormat::Png).unwrap();
    assert!(found == image::open(here.path().join("one.png")).unwrap());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("seed 3") && said.contains("denoising"), "{said}");
    assert_eq!(fs::read_dir(here.path()).unwrap().count(), 1, "a file was written too");
}

#[test]
fn a_picture_in_a_terminal() {
    let model = tiny_model();
    let model = model.path().to_str().unwrap();
    let here = tempfile::tempdir().unwrap();
    let said = succeeds(here.path(), &["generate", "x", "--show=kitty", "--model", model]);
    assert!(said.contains("\x1b_Ga=T,f=100,") && said.contains("picture.png"), "{said:?}");
    let said = refused(here.path(), &["generate", "x", "--show", "--model", model]);
    assert!(said.contains("--show=kitty"), "{said}");
}

/// Notes and progress go, results and errors stay; what was used is printed on demand.
#[test]
fn quiet_and_verbose() {
    let model = tiny_model();
    fs::remove_dir_all(model.path().join("unet_one_step")).unwrap();
    let model = model.path().to_str().unwrap();
    let here = tempfile::tempdir().unwrap();
    let run = |more: &[&str]| {
        let output = dmd(here.path(), &[&["generate", "x", "--model", model], more].concat());
        assert!(output.status.success(), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (out, err) = run(&[]);
    assert!(
        out.contains("picture.png") && err.contains("note: this model has no distilled generator"),
        "{err}"
    );
    let (out, err) = run(&["--quiet"]);
    assert!(out.contains("picture.png") && err.is_empty(), "{err}");
    let (_, err) = run(&["-v"]);
    assert!(err.contains(&format!("model {model}")) && err.contains(" s, "), "{err}");
    let said = refused(here.path(), &["-q", "inspect", "nowhere"]);
    assert!(said.starts_with("error: ") && said.contains("nowhere"), "{said}");
    let output = dmd(here.path(), &["-q", "-v", "devices"]);
    assert_eq!(output.status.code(), Some(2), "the two contradict each other");
}

#[test]
fn completions() {
    let here = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = succeeds(here.path(), &["completions", shell]);
        // Not every shell completes values.
        let values = if matches!(shell, "powershell" | "elvish") { "" } else { "torch-cuda" };
        for word in ["generate", "distill", "guidance-rescale", values] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
    assert!(refused(here.path(), &["completions", "cmd"]).contains("bash"));
}
