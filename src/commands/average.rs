use std::fs;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::Args;
use dmd_model::RecipeFile;
use dmd_weights::{Dtype, Precision, Tensors, mean, read, read_json, weight_file, write, write_atomic};
use serde_json::Value;

use crate::console::say;

/// Average the weights of several generators of the same architecture
#[derive(Debug, Args)]
pub(crate) struct AverageArgs {
    /// UNet folders, such as RUN/unet_one_step, or bare weight files
    #[arg(required = true, num_args = 2..)]
    from: Vec<PathBuf>,
    /// Folder to write; the settings beside the weights are copied from the first folder
    #[arg(long)]
    out: PathBuf,
}

/// The name of a UNet's weights in diffusers' layout, without its ending.
const STEM: &str = "diffusion_pytorch_model";
/// The architecture beside a UNet's weights.
const ARCHITECTURE: &str = "config.json";

pub(crate) fn average(args: &AverageArgs) -> anyhow::Result<()> {
    let open = |path: &PathBuf| -> anyhow::Result<Tensors> {
        Ok(read(&if path.is_dir() { weight_file(path, &[STEM])? } else { path.clone() })?)
    };
    let files = args.from.iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
    let (architecture, recipe) = (architecture(&args.from)?, recipe(&args.from)?);
    let half = files[0].entries().values().all(|entry| entry.dtype == Dtype::F16);
    let precision = if half { Precision::Half } else { Precision::Single };
    write(&args.out.join(format!("{STEM}.safetensors")), &mean(&files)?, precision)?;
    if let Some(text) = architecture {
        write_atomic(&args.out.join(ARCHITECTURE), &text)?;
    }
    if let Some(recipe) = recipe {
        recipe.write(&args.out)?;
    }
    say!("wrote {}: the mean of {}", args.out.display(), files.len());
    Ok(())
}

/// How the generators are called, all of them in one way: weights that expect another timestep have no mean. `None`
/// where none of them says so, and each is called once, at the schedule's last timestep.
fn recipe(from: &[PathBuf]) -> anyhow::Result<Option<RecipeFile>> {
    let first = RecipeFile::beside(&from[0])?;
    for other in &from[1..] {
        ensure!(
            RecipeFile::beside(other)? == first,
            "{:?} and {other:?} differ in their {}: average generators of one kind",
            from[0],
            RecipeFile::NAME
        );
    }
    Ok(first)
}

/// The first architecture beside the weights, which those of the others must not contradict.
fn architecture(from: &[PathBuf]) -> anyhow::Result<Option<Vec<u8>>> {
    let files: Vec<PathBuf> = from.iter().map(|path| beside(path, ARCHITECTURE)).collect();
    let files: Vec<&PathBuf> = files.iter().filter(|path| path.is_file()).collect();
    let Some((first, others)) = files.split_first() else { return Ok(None) };
    let value: Value = read_json(first)?;
    for other in others {
        let found: Value = read_json(other)?;
        ensure!(found == value, "{first:?} and {other:?} differ: average generators of one kind");
    }
    Ok(Some(fs::read(first)?))
}

/// A file in a folder of weights, or beside a bare weight file.
fn beside(weights: &Path, name: &str) -> PathBuf {
    if weights.is_dir() { weights.join(name) } else { weights.with_file_name(name) }
}
