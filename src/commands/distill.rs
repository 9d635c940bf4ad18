use std::path::PathBuf;

use burn::tensor::Device;
use clap::Args;
use dmd_data::Dataset;
use dmd_train::DistillationStage;
use dmd_train::config::{self, DistillConfig};
use dmd_train::domain::{Domain, Kind, LatentDomain, PixelDomain};
use dmd_train::pairs::{PairMaker, Pairs, Share};
use dmd_train::run::{Outcome, run};
use dmd_weights::{Precision, write_json};

use super::open_dataset;
use super::progress::Progress;
use crate::console::say;

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
    let device = dmd_kernels::device::open(&args.device)?;
    match Kind::of(&config.teacher)? {
        Kind::Latents => distill_in(&LatentDomain::from_dir(&config.teacher, &device)?, &config, &device),
        Kind::Pixels => distill_in(&PixelDomain::from_dir(&config.teacher, &device)?, &config, &device),
    }
}

fn distill_in<D: Domain>(domain: &D, config: &DistillConfig, device: &Device) -> anyhow::Result<()> {
    let dataset = open_dataset(&config.data)?;
    config::save(config, &config.output)?;
    let mut progress = Progress::new()?;
    let stopped = || {
        say!("stopped; the same command resumes from {}", config.output.display());
        Ok(())
    };

    let mut pairs = None;
    if let Some(section) = &config.regression {
        if make_pairs(config, dataset.as_ref(), domain, Share::ALL, device, &mut progress)?
            == Outcome::Stopped
        {
            return stopped();
        }
        pairs = Some(Pairs::read(&pair_folder(config), section.pairs, domain.shape())?);
    }
    let mut stage = DistillationStage::new(config.clone(), domain, dataset, pairs, device)?;
    if run(&mut stage, &config.pace, &config.output, &mut progress)? == Outcome::Stopped {
        return stopped();
    }
    let folder = config.output.join("unet_one_step");
    domain.write(&folder, &stage.generator().denoiser, Precision::Half)?;
    write_json(&folder.join("one_step.json"), &stage.settings()?)?;
    say!("wrote {}; copy it into the teacher's model folder", folder.display());
    Ok(())
}

/// Where the pairs of a distillation lie.
fn pair_folder(config: &DistillConfig) -> PathBuf {
    config.output.join("pairs")
}

/// Makes a share of the regression's pairs.
fn make_pairs<D: Domain>(
    config: &DistillConfig,
    dataset: &dyn Dataset,
    domain: &D,
    share: Share,
    device: &Device,
    progress: &mut Progress,
) -> anyhow::Result<Outcome> {
    let Some(section) = &config.regression else {
        return Ok(Outcome::Finished); // no term needs any
    };
    let maker = PairMaker {
        domain,
        guidance_scale: config.guidance_scale,
        dataset,
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
    let device = dmd_kernels::device::open(&args.device)?;
    let dataset = open_dataset(&config.data)?;
    let mut progress = Progress::new()?;
    let folder = pair_folder(&config);
    let outcome = match Kind::of(&config.teacher)? {
        Kind::Latents => {
            let domain = LatentDomain::from_dir(&config.teacher, &device)?;
            make_pairs(&config, dataset.as_ref(), &domain, args.shard, &device, &mut progress)?
        }
        Kind::Pixels => {
            let domain = PixelDomain::from_dir(&config.teacher, &device)?;
            make_pairs(&config, dataset.as_ref(), &domain, args.shard, &device, &mut progress)?
        }
    };
    match outcome {
        Outcome::Finished => say!("wrote {}", folder.display()),
        Outcome::Stopped => say!("stopped; the same command goes on where {} ends", folder.display()),
    }
    Ok(())
}
