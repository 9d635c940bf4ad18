use std::fs;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::Args;
use dmd_weights::{Dtype, Precision, Tensors, mean, read, read_json, weight_file, write, write_atomic};
use serde_json::Value;

use crate::console::say;

/// Average the weights of several generators of one kind
#[derive(Debug, Args)]
pub(crate) struct AverageArgs {
    /// UNet folders, such as RUN/unet_one_step, or bare weight files
    #[arg(required = true, num_args = 2..)]
    from: Vec<PathBuf>,
    /// Folder to write; settings beside the weights are those of the first folder
    #[arg(long)]
    out: PathBuf,
}

/// The name of a UNet's weights in diffusers' layout, without its ending.
const STEM: &str = "diffusion_pytorch_model";
/// The architecture beside a UNet's weights.
const ARCHITECTURE: &str = "config.json";
/// How a generator is called, beside its weights.
const RECIPE: &str = "one_step.json";

pub(crate) fn average(args: &AverageArgs) -> anyhow::Result<()> {
    let open = |path: &PathBuf| -> anyhow::Result<Tensors> {
        Ok(read(&if path.is_dir() { weight_file(path, &[STEM])? } else { path.clone() })?)
    };
    let files = args.from.iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
    let settings = settings(&args.from)?;
    let half = files[0].entries().values().all(|entry| entry.dtype == Dtype::F16);
    let precision = if half { Precision::Half } else { Precision::Single };
    write(&args.out.join(format!("{STEM}.safetensors")), &mean(&files)?, precision)?;
    for (name, text) in settings {
        write_atomic(&args.out.join(name), &text)?;
    }
    say!("wrote {}: the mean of {}", args.out.display(), files.len());
    Ok(())
}

/// The settings of the first folder, which those of the others must not contradict: weights that expect another
/// timestep or another architecture have no mean.
fn settings(from: &[PathBuf]) -> anyhow::Result<Vec<(&'static str, Vec<u8>)>> {
    let mut settings = Vec::new();
    for name in [ARCHITECTURE, RECIPE] {
        let files: Vec<PathBuf> = from.iter().map(|path| beside(path, name)).collect();
        let Some(first) = files.iter().find(|path| path.is_file()) else { continue };
        let value: Value = read_json(first)?;
        for other in &files {
            if other.is_file() {
                let found: Value = read_json(other)?;
                ensure!(found == value, "{first:?} and {other:?} differ: average generators of one kind");
            } else {
                // Without a recipe a generator is called once, at the schedule's last timestep.
                ensure!(
                    name != RECIPE,
                    "there is no {other:?}, but a {first:?}: average generators of one kind"
                );
            }
        }
        settings.push((name, fs::read(first)?));
    }
    Ok(settings)
}

/// A file in a folder of weights, or beside a bare weight file.
fn beside(weights: &Path, name: &str) -> PathBuf {
    if weights.is_dir() { weights.join(name) } else { weights.with_file_name(name) }
}
