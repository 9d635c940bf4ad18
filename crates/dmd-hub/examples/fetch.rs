//! Fetches a diffusion model into the cache and prints where it lies:
//! `cargo run -p dmd-hub --example fetch stabilityai/sdxl-turbo fp16`. Patterns in the place of `fp16` fetch the files that
//! fit them.

use std::ops::ControlFlow;

use anyhow::Context;
use dmd_hub::{Hub, Repository, Selection, Variant, diffusers_selection};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, rest) =
        arguments.split_first().context("usage: fetch OWNER/NAME[@REVISION][:FILE] [fp16 | PATTERN…]")?;
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let hub = Hub::from_env()?;
    let mut shown = String::new();
    let snapshot = hub.fetch(
        &Repository::parse(name)?,
        |entries| match rest.as_slice() {
            [] => diffusers_selection(entries, Variant::Full),
            ["fp16"] => diffusers_selection(entries, Variant::Fp16),
            patterns => Ok(Selection::matching(entries, patterns)),
        },
        |progress| {
            if progress.file != shown {
                shown = progress.file.to_owned();
                eprintln!("{shown}: {} bytes", progress.file_total);
            }
            ControlFlow::Continue(())
        },
    )?;
    println!("{}", snapshot.model().display());
    Ok(())
}
