//! What the book shows works: configurations are read, and commands that need nothing else are run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use dmd::train::config::{DistillConfig, PixelTeacherConfig, TeacherConfig};
use toml::{Table, Value};

use super::fences::{arguments, blocks, commands, needs};
use super::{pages, root};
use crate::program::succeeds;

/// Puts the entries of one table into another; a data set is replaced as a whole.
fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) if key != "data" => merge(into, from),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

/// Reads a piece of a configuration, with what it leaves out from a small one.
fn read(piece: &Table, folder: &Path) -> Result<(), dmd::train::Error> {
    let file = folder.join("config.toml");
    let has = |key: &str| piece.contains_key(key);
    let (mut whole, kind): (Table, _) = if has("kind") {
        (Table::new(), "pixels")
    } else if ["autoencoder", "grounding", "diffusion", "text"].into_iter().any(has) {
        (fs::read_to_string(root().join("configs/shapes-teacher.toml")).unwrap().parse().unwrap(), "teacher")
    } else {
        let mut smallest = toml::toml! {
            teacher = "T"
            output = "O"
            data = { kind = "shapes" }
            pace = { steps = 1 }
        };
        if has("regression") {
            let section = toml::toml! { weight = 1.0
            pairs = 1
            sampling_steps = 1
            warmup_steps = 0 };
            smallest.insert("regression".to_owned(), section.into());
            smallest.insert("generator".to_owned(), toml::toml! { batch = 2 }.into());
        }
        (smallest, "distillation")
    };
    merge(&mut whole, piece.clone());
    fs::write(&file, whole.to_string()).unwrap();
    match kind {
        "pixels" => PixelTeacherConfig::from_file(&file).map(drop),
        "teacher" => TeacherConfig::from_file(&file).map(drop),
        _ => DistillConfig::from_file(&file).map(drop),
    }
}

#[test]
fn configurations_of_the_book_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        for block in blocks(&page).into_iter().filter(|block| block.language == "toml") {
            let place = format!("{}:{}", path.display(), block.line);
            let piece: Table = block.text.parse().unwrap_or_else(|error| panic!("{place}: {error}"));
            // A piece of a Cargo.toml.
            if piece.contains_key("dmd") {
                continue;
            }
            read(&piece, folder.path()).unwrap_or_else(|error| panic!("{place}: {error}"));
            seen += 1;
        }
    }
    assert!(seen >= 15, "the book has {seen} configurations");
    let wrong: Table = "[matching]\nfirst_step = 20".parse().unwrap();
    assert!(read(&wrong, folder.path()).is_err(), "a wrong key is read");
}

/// A page's configurations that it tells to save, by the name that it gives them.
fn saved(page: &str) -> BTreeMap<String, String> {
    let lines: Vec<&str> = page.lines().collect();
    let mut files = BTreeMap::new();
    for block in blocks(page).into_iter().filter(|block| block.language == "toml") {
        let end = block.line + block.text.lines().count();
        let next = lines[end..].iter().find(|line| !line.is_empty()).copied().unwrap_or_default();
        if let Some(rest) = next.strip_prefix("Save it as `") {
            files.insert(rest.split('`').next().unwrap_or_default().to_owned(), block.text);
        }
    }
    files
}

/// Each block of commands runs, in the order of its page, or says in its first line what it needs.
#[test]
fn commands_of_the_book_run_or_say_what_they_need() {
    let mut run = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for name in ["models", "configs"] {
            std::os::unix::fs::symlink(root().join(name), folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("prompts.txt"), "a red fox\na blue house\n").unwrap();
        for (name, text) in saved(&page) {
            fs::write(folder.path().join(name), text).unwrap();
        }
        for block in blocks(&page) {
            let place = format!("{}:{}", path.display(), block.line);
            let is_command = |line: &str| {
                (line.starts_with("dmd ") && !line.starts_with("dmd = ")) || line.starts_with("cargo ")
            };
            let shell = block.language == "sh";
            assert!(
                shell || !block.text.lines().any(is_command),
                "{place}: commands belong into a block of sh"
            );
            if !shell {
                continue;
            }
            if let Some(needs) = needs(&block) {
                assert!(!needs.trim().is_empty(), "{place}: it does not say what it needs");
                continue;
            }
            for command in commands(&block) {
                // What runs this test.
                if command.starts_with("cargo test --workspace ") {
                    continue;
                }
                let arguments = arguments(&command).unwrap_or_else(|| {
                    panic!("{place}: `{command}` is no command of dmd; begin the block with `# needs: …`")
                });
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                succeeds(folder.path(), &arguments);
                run += 1;
            }
        }
    }
    assert!(run >= 10, "only {run} commands of the book were run");
}
