use std::fs;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::Args;
use dmd_weights::{Dtype, Precision, TensorFile, mean, read, read_json, weight_file, write, write_atomic};
use serde_json::Value;

use crate::console::say;

/// Average the weights of several generators of one architecture
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
/// What a UNet's folder holds beside its weights.
const SETTINGS: [&str; 2] = ["config.json", "one_step.json"];

pub(crate) fn average(args: &AverageArgs) -> anyhow::Result<()> {
    let open = |path: &PathBuf| -> anyhow::Result<TensorFile> {
        Ok(read(&if path.is_dir() { weight_file(path, &[STEM])? } else { path.clone() })?)
    };
    let files = args.from.iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
    let settings = settings(&args.from)?;
    let half = files[0].entries().values().all(|entry| entry.dtype == Dtype::F16);
    let precision = if half { Precision::Half } else { Precision::Single };
    write(&args.out.join(format!("{STEM}.safetensors")), mean(&files)?, precision)?;
    for (name, text) in settings {
        write_atomic(&args.out.join(name), &text)?;
    }
    say!("wrote {}: the mean of {}", args.out.display(), files.len());
    Ok(())
}

/// The settings of the first folder, which those of the others must not contradict: one called at another timestep
/// is another generator.
fn settings(folders: &[PathBuf]) -> anyhow::Result<Vec<(&'static str, Vec<u8>)>> {
    let mut settings = Vec::new();
    for name in SETTINGS {
        let with: Vec<&Path> =
            folders.iter().map(PathBuf::as_path).filter(|folder| folder.join(name).is_file()).collect();
        let Some((first, others)) = with.split_first() else { continue };
        let value: Value = read_json(&first.join(name))?;
        for other in others {
            let found: Value = read_json(&other.join(name))?;
            ensure!(found == value, "{first:?} and {other:?} differ in {name}: their mean is no generator");
        }
        settings.push((name, fs::read(first.join(name))?));
    }
    Ok(settings)
}
