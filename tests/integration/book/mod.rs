//! The book: its reference of configuration keys is made from the code, and its commands and configurations are understood.

mod configuration;
mod examples;
pub(crate) mod fences;

use std::path::{Path, PathBuf};

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The README and every page of the book, without the decisions.
fn pages() -> Vec<PathBuf> {
    let pages = std::fs::read_dir(root().join("docs/src")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> =
        pages.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    pages.push(root().join("README.md"));
    pages.sort();
    pages
}
