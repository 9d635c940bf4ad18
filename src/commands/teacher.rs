use std::path::PathBuf;

use clap::Args;
use dmd_train::AutoencoderStage;
use dmd_train::config::TeacherConfig;
use dmd_train::run::{Outcome, run};

use super::progress::Progress;

/// Train a teacher: the autoencoder, then text encoder and UNet together.
#[derive(Debug, Args)]
pub(crate) struct TeacherArgs {
    /// Configuration file (TOML), e.g. configs/shapes-teacher.toml
    config: PathBuf,
    /// Device to train on
    #[arg(long, default_value = "flex")]
    device: String,
}

pub(crate) fn teacher(args: &TeacherArgs) -> anyhow::Result<()> {
    let config = TeacherConfig::from_file(&args.config)?;
    let device = dmd_core::device::open(&args.device)?;
    let source = config.data.open()?;
    let mut progress = Progress::new()?;
    let mut stage = AutoencoderStage::new(config.autoencoder.clone(), source, config.seed, &device)?;
    let outcome = run(&mut stage, &config.autoencoder.pace, &config.output, &mut progress)?;
    if outcome == Outcome::Stopped {
        println!("stopped; the same command resumes from the checkpoint in {}", config.output.display());
        return Ok(());
    }
    Ok(())
}
