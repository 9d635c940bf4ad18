//! The program: what it prints, what it writes, and how it fails. Bad input gives one clear
//! sentence, a failing exit code, and no file under the final name.

mod averaging;
mod caching;
mod classes;
mod configurations;
mod console;
mod devices;
mod distillation;
mod drawing;
mod evaluating;
mod inspecting;
mod lora;
mod notes;
mod output;
mod planning;
#[cfg(feature = "mpi")]
mod ranks;
mod refusals;
#[cfg(feature = "serve")]
mod serving;
mod teacher;
mod watching;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

pub(crate) fn dmd(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dmd"))
        .current_dir(folder)
        .args(arguments)
        .output()
        .expect("the program runs")
}

/// Runs, expects success, and returns what was printed.
pub(crate) fn succeeds(folder: &Path, arguments: &[&str]) -> String {
    let output = dmd(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs, expects failure, and returns the one sentence.
pub(crate) fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = dmd(folder, arguments);
    let sentence = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    assert!(!output.status.success(), "{arguments:?} should fail");
    assert!(!sentence.contains("panicked"), "{arguments:?}: {sentence}");
    sentence
}

/// What a run logged, but for its clock and its memory.
fn losses(folder: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default();
    let mut lines: Vec<serde_json::Value> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for line in &mut lines {
        let object = line.as_object_mut().unwrap();
        for clock in ["seconds", "memory_gib", "samples_per_second", "evaluation_seconds"] {
            object.remove(clock);
        }
    }
    lines
}
