use std::path::PathBuf;

use clap::Args;
use dmd_train::config::DistillConfig;
use dmd_train::pairs::{PairMaker, Pairs};
use dmd_train::run::{Outcome, run};
use dmd_train::{DistillationStage, TeacherParts, assemble};
use dmd_weights::{Precision, write_json};

use super::progress::Progress;

/// Distil a teacher into a one-step generator
#[derive(Debug, Args)]
pub(crate) struct DistillArgs {
    /// Configuration file (TOML), e.g. configs/shapes-distill.toml
    config: PathBuf,
    /// Device to train on
    #[arg(long, default_value = "flex")]
    device: String,
}

pub(crate) fn distill(args: &DistillArgs) -> anyhow::Result<()> {
    let config = DistillConfig::from_file(&args.config)?;
    let device = dmd_core::device::open(&args.device)?;
    let source = config.data.open()?;
    let teacher = TeacherParts::from_dir(&config.teacher, &device)?;
    let mut progress = Progress::new()?;
    let stopped = || {
        println!("stopped; the same command resumes from {}", config.output.display());
        Ok(())
    };

    let mut pairs = None;
    if let Some(section) = &config.regression {
        let folder = config.output.join("pairs");
        let guided = teacher.guided(config.guidance_scale)?;
        let maker = PairMaker {
            teacher: &guided,
            text: &teacher.text,
            scheduler: &teacher.scheduler,
            source: &source,
            latent_shape: teacher.latent_shape(),
            steps: section.sampling_steps,
            seed: config.seed,
            device: &device,
        };
        if maker.make(&folder, section.pairs, &mut progress)? == Outcome::Stopped {
            return stopped();
        }
        pairs = Some(Pairs::read(&folder, section.pairs, teacher.latent_shape())?);
    }
    let mut stage = DistillationStage::new(config.clone(), &teacher, source, pairs, &device)?;
    if run(&mut stage, &config.pace, &config.output, &mut progress)? == Outcome::Stopped {
        return stopped();
    }
    let folder = config.output.join("unet_one_step");
    let network = &stage.generator().denoiser.unet;
    assemble::write_unet(&folder, network, &teacher.unet, Precision::Half)?;
    write_json(&folder.join("one_step.json"), &stage.settings())?;
    println!("wrote {}; copy it into the teacher's model folder", folder.display());
    Ok(())
}
