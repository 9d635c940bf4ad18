//! Tests: every command of the README and the book is one that the program understands.

#[path = "../tests/integration/book/fences.rs"]
mod fences;

use std::fs;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use self::fences::{arguments, blocks, commands, needs};
use crate::Cli;

/// The README and every page of the book.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [root.join("docs/src"), root.join("docs/src/decisions")];
    let found =
        folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    let mut pages: Vec<PathBuf> =
        found.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    pages.extend([
        root.join("README.md"),
        root.join("CONTRIBUTING.md"),
        root.join("models/shapes/README.md"),
    ]);
    pages
}

/// Inline code of a page, outside of fenced blocks.
fn inline(page: &str) -> Vec<String> {
    let mut fenced = false;
    let mut prose = String::new();
    for line in page.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            prose.push_str(line);
            prose.push(' ');
        }
    }
    prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn parse(arguments: &[String]) -> Result<(), clap::Error> {
    Cli::try_parse_from([&["dmd".to_owned()], arguments].concat()).map(drop)
}

/// Inline code may leave out arguments, put optional ones into brackets, and name a command alone.
fn check_inline(code: &str) -> Result<(), clap::Error> {
    let plain = code.replace(['[', ']', '…'], " ");
    let Some(arguments) = arguments(&plain) else { return Ok(()) };
    match arguments.first() {
        // `dmd COMMAND --help`, `dmd --version`.
        Some(name) if !name.chars().all(|letter| letter.is_lowercase() || letter == '-') => Ok(()),
        None => Ok(()),
        Some(_) => match parse(&arguments) {
            Err(error)
                if [
                    ErrorKind::MissingRequiredArgument,
                    ErrorKind::TooFewValues,
                    ErrorKind::DisplayHelp,
                    ErrorKind::DisplayVersion,
                ]
                .contains(&error.kind()) =>
            {
                Ok(())
            }
            result => result,
        },
    }
}

#[test]
fn every_command_is_understood() {
    let mut understood = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        for block in blocks(&page).into_iter().filter(|block| block.language == "sh") {
            assert!(needs(&block).is_none_or(|needs| !needs.is_empty()), "{}:{}", path.display(), block.line);
            for command in commands(&block) {
                let Some(arguments) = arguments(&command) else { continue };
                if let Err(error) = parse(&arguments) {
                    panic!("{}:{}: `{command}`: {error}", path.display(), block.line);
                }
                understood += 1;
            }
        }
        for code in inline(&page).iter().filter(|code| code.starts_with("dmd ") || code.contains(" dmd ")) {
            if let Err(error) = check_inline(code) {
                panic!("{}: `{code}`: {error}", path.display());
            }
            understood += 1;
        }
    }
    assert!(understood > 150, "only {understood} commands were found");
}

/// The lines of have.md continue `dmd generate "a red fox"`.
#[test]
fn every_line_of_what_to_type_is_understood() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/have.md");
    let page = fs::read_to_string(page).unwrap();
    let rows: Vec<String> =
        inline(&page).into_iter().filter(|code| code.starts_with("--") && code.contains(' ')).collect();
    assert!(rows.len() > 20, "only {} lines were found", rows.len());
    for row in rows {
        let arguments =
            [vec!["generate".to_owned(), "a red fox".to_owned()], shlex::split(&row).unwrap()].concat();
        if let Err(error) = parse(&arguments) {
            panic!("have.md: `{row}`: {error}");
        }
    }
}

/// These tests notice a wrong option, a wrong command and a wrong value.
#[test]
fn wrong_commands_are_noticed() {
    for wrong in [
        "dmd generate PROMPT --sede 7",
        "dmd drow PROMPT",
        "dmd generate PROMPT --count many",
        "dmd evaluate [--prompt 4]",
    ] {
        assert!(check_inline(wrong).is_err(), "{wrong}");
    }
    for right in [
        "dmd distill",
        "dmd generate PROMPT… --seed 7",
        "dmd COMMAND --help",
        "mpirun -n 2 dmd distill CONFIG",
    ] {
        assert!(check_inline(right).is_ok(), "{right}");
    }
    assert!(Cli::command().find_subcommand("generate").is_some());
}
