//! The program: its tables of latencies and of trained rows, and what it refuses.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn ablations(folder: &Path, arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_dmd-ablations");
    Command::new(program).current_dir(folder).args(arguments).output().unwrap()
}

/// Runs, and gives the page that was written.
fn page(folder: &Path, arguments: &[&str]) -> String {
    let output = ablations(folder, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read_to_string(folder.join("ablations/tables.md")).unwrap()
}

/// Sums and ratios of the table M9, from timings that can be added by hand.
#[test]
fn latencies_are_added_up() {
    let here = tempfile::tempdir().unwrap();
    let parts = [
        ("text", 1.0),
        ("unet", 10.0),
        ("guided", 15.0),
        ("decode", 2.0),
        ("picture", 14.0),
        ("teacher", 770.0),
    ];
    let line = |(part, ms): &(&str, f64)| {
        format!("{{\"part\": \"{part}\", \"runs\": 5, \"device\": \"flex\", \"median_ms\": {ms}}}\n")
    };
    fs::write(here.path().join("times.json"), parts.iter().map(line).collect::<String>()).unwrap();
    let page = page(here.path(), &["--tables", "m9", "--latency", "times.json"]);
    for row in [
        "| one step | 1 | c + o = 13.0 | 14.0 |",
        "| teacher, 50 guided steps | 100 | 50 g + o = 753.0 | 770.0 |",
        "| ratio | 100 | 57.9 | 55.0 |",
    ] {
        assert!(page.contains(row), "{row} in {page}");
    }
}

/// A table that is hardly trained: samples of the data itself are at every mode, whatever was trained. A second call
/// takes the rows of the first.
#[test]
fn rows_are_trained_once() {
    let here = tempfile::tempdir().unwrap();
    let arguments = ["--tables", "m8", "--seeds", "1", "--updates", "1", "--teacher-steps", "1"];
    let first = page(here.path(), &arguments);
    let row = |name: &str| first.lines().find(|line| line.starts_with(name)).expect("a row").to_owned();
    let columns: Vec<String> = row("| variant").split(" | ").map(str::to_owned).collect();
    let data: Vec<String> = row("| data").split(" | ").map(str::to_owned).collect();
    let figure = |name: &str| &data[columns.iter().position(|column| column == name).expect("a column")];
    assert_eq!((figure("modes").as_str(), figure("sharp").as_str()), ("16", "1"), "{first}");
    let results = || fs::read_to_string(here.path().join("ablations/results.jsonl")).unwrap();
    let before = results();
    assert_eq!(page(here.path(), &arguments), first);
    assert_eq!(results(), before, "a row was trained again");

    let output = ablations(here.path(), &["--tables", "m8,m99"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("there is no table \"m99\""), "{said}");
}
