use std::path::PathBuf;

use burn::tensor::Device;
use clap::Args;
use dmd_train::config::{self, DistillConfig};
use dmd_train::data::Source;
use dmd_train::pairs::{PairMaker, Pairs, Share};
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
    config::save(&config, &config.output)?;
    let mut progress = Progress::new()?;
    let stopped = || {
        println!("stopped; the same command resumes from {}", config.output.display());
        Ok(())
    };

    let mut pairs = None;
    if let Some(section) = &config.regression {
        if make_pairs(&config, &source, &teacher, Share::ALL, &device, &mut progress)? == Outcome::Stopped {
            return stopped();
        }
        pairs = Some(Pairs::read(&pair_folder(&config), section.pairs, teacher.latent_shape())?);
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

/// Where the pairs of a distillation lie.
fn pair_folder(config: &DistillConfig) -> PathBuf {
    config.output.join("pairs")
}

/// Makes a share of the regression's pairs.
fn make_pairs(
    config: &DistillConfig,
    source: &Source,
    teacher: &TeacherParts,
    share: Share,
    device: &Device,
    progress: &mut Progress,
) -> anyhow::Result<Outcome> {
    let Some(section) = &config.regression else {
        return Ok(Outcome::Finished); // no term needs any
    };
    let guided = teacher.guided(config.guidance_scale)?;
    let maker = PairMaker {
        teacher: &guided,
        text: &teacher.text,
        scheduler: &teacher.scheduler,
        source,
        latent_shape: teacher.latent_shape(),
        steps: section.sampling_steps,
        seed: config.seed,
        device,
    };
    Ok(maker.make(&pair_folder(config), section.pairs, share, progress)?)
}

/// Make the pairs of a distillation: noise, and what the teacher's deterministic sampler makes of it
#[derive(Debug, Args)]
pub(crate) struct PairsArgs {
    /// The distillation's configuration file (TOML)
    config: PathBuf,
    /// This machine's share, e.g. 2/4 for the second of four; all files go into one folder in the end
    #[arg(long, default_value = "1/1")]
    shard: Share,
    /// Device to compute on
    #[arg(long, default_value = "flex")]
    device: String,
}

pub(crate) fn pairs(args: &PairsArgs) -> anyhow::Result<()> {
    let config = DistillConfig::from_file(&args.config)?;
    anyhow::ensure!(
        config.regression.is_some(),
        "{:?} has no [regression] section: this distillation needs no pairs",
        args.config
    );
    let device = dmd_core::device::open(&args.device)?;
    let teacher = TeacherParts::from_dir(&config.teacher, &device)?;
    let source = config.data.open()?;
    let mut progress = Progress::new()?;
    let folder = pair_folder(&config);
    match make_pairs(&config, &source, &teacher, args.shard, &device, &mut progress)? {
        Outcome::Finished => println!("wrote {}", folder.display()),
        Outcome::Stopped => println!("stopped; the same command goes on where {} ends", folder.display()),
    }
    Ok(())
}
