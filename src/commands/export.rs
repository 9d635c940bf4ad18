use std::path::PathBuf;

use clap::Args;
use dmd_model::with_model;
use dmd_train::Trained;
use dmd_train::config::DistillConfig;

use super::Dtype;
use super::distill::open;
use crate::console::say;

/// Write the generator of a distillation's checkpoint, while the run goes on or after it
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The run's folder: `output` of its configuration
    run: PathBuf,
    /// The step of a checkpoint that was kept (`pace.keep`) [default: the newest]
    #[arg(long)]
    step: Option<usize>,
    /// Folder to write into [default: the run's folder]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Float type of the weights
    #[arg(long, value_enum, default_value = "f16")]
    precision: Dtype,
    /// Device to read the checkpoint on
    #[arg(long, default_value = "flex")]
    device: String,
}

pub(crate) fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let config = DistillConfig::from_file(&args.run.join("config.toml"))?;
    let device = dmd_kernels::device::open(&args.device)?;
    let out = args.out.as_ref().unwrap_or(&args.run);
    let (folders, step) = with_model!(open(&config, &device)?, model => {
        let (trained, step) = Trained::of_checkpoint(&args.run, args.step, &config, &model, &device)?;
        (trained.write(out, args.precision.into())?, step)
    });
    say!("the checkpoint after {step} steps:");
    for folder in folders {
        say!("wrote {}", folder.display());
    }
    Ok(())
}
