//! Standard output that nobody reads, and standard output that cannot be written.

use std::process::{Command, Stdio};

use crate::support::tiny_model;

/// The program with a standard output whose reader is gone.
fn closed(arguments: &[&str], folder: &std::path::Path) -> (std::process::ExitStatus, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_dmd"))
        .args(arguments)
        .current_dir(folder)
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// `dmd … | head`: an end without a word, and every picture is written although nobody reads their names.
#[test]
fn a_reader_that_went_away() {
    let model = tiny_model();
    let model = model.path().to_str().unwrap();
    let here = tempfile::tempdir().unwrap();
    for arguments in [
        &["inspect", "--tensors", model][..],
        &["devices"],
        &["--help"],
        &["generate", "x", "--count", "5", "--model", model],
        &["compare", "x", "--steps", "2", "--repeats", "1", "--model", model],
    ] {
        let (status, said) = closed(arguments, here.path());
        assert!(status.success() && said.is_empty(), "{arguments:?}: {status}, {said}");
    }
    let mut made: Vec<String> = std::fs::read_dir(here.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    made.sort();
    let pictures = (1..=5).map(|i| format!("picture-{i}.png"));
    assert_eq!(made, std::iter::once("compare.png".to_owned()).chain(pictures).collect::<Vec<_>>());
}

/// A full disk behind `>` is not silence: the list would be cut short without a sign.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_behind_standard_output() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_dmd")).arg("devices").stdout(full).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("standard output"), "{said}");
}
