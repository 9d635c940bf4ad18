use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use burn::tensor::Device;
use clap::Args;
use dmd_data::{Dataset, check_captions};
use dmd_model::{AnyModel, Conditioner, Family, Model, ModelFolder, Networks, OpenOptions, Part, with_model};
use dmd_train::cache::Cache;
use dmd_train::checkpoint::check_resumable;
use dmd_train::config::{self, DistillConfig, Fingerprints};
use dmd_train::fingerprint::Fingerprint;
use dmd_train::pairs::{PairMaker, Pairs, Share};
use dmd_train::run::{Outcome, Stage, run};
use dmd_train::{DistillationParts, DistillationStage, agree, any, together};
use dmd_weights::{FolderLock, Precision};

use super::cache::Caching;
use super::progress::Progress;
use super::ranks::{self, Ranks, on_ranks};
use super::{open_dataset, plan, print_notes};
use crate::console::say;

/// Distil a teacher into a one-step generator
#[derive(Debug, Args)]
pub(crate) struct DistillArgs {
    /// Configuration file (TOML), e.g. configs/shapes-distill.toml
    config: PathBuf,
    /// Device to train on
    #[arg(long, default_value = "flex")]
    device: String,
    /// Start even if `dmd plan` finds that the memory is not enough
    #[arg(long)]
    anyway: bool,
}

pub(crate) fn distill(args: &DistillArgs) -> anyhow::Result<()> {
    on_ranks(|ranks| {
        let config =
            together(ranks.all, DistillConfig::from_file(&args.config).map_err(anyhow::Error::from))?;
        agree(
            ranks.all,
            &serde_json::to_vec(&config)?,
            "was started with another configuration than rank 0",
        )?;
        let device = dmd_kernels::device::open(&ranks.device(&args.device))?;
        if !args.anyway {
            together(ranks.all, plan::check(&config, &device, ranks))?;
        }
        let lock = if ranks.leads() { FolderLock::take(&config.output).map(Some) } else { Ok(None) };
        let _lock = together(ranks.all, lock.map_err(anyhow::Error::from))?;
        with_model!(open(&config, &device)?, model => distill_in(model, &config, ranks, &device))
    })
}

/// The teacher of a distillation.
pub(crate) fn open(config: &DistillConfig, device: &Device) -> anyhow::Result<AnyModel> {
    let options = OpenOptions {
        networks: Networks::Teacher,
        // A teacher is one, whatever its folder's name.
        recipe: Some("none".to_owned()),
        ..OpenOptions::new(&config.teacher, device)
    };
    let model = AnyModel::open(&options)?;
    print_notes(with_model!(&model, model => &model.noising));
    Ok(model)
}

/// The data set; every caption of it can be a condition of the model.
pub(crate) fn open_data<F: Family>(
    model: &Model<F>,
    config: &DistillConfig,
) -> anyhow::Result<Arc<dyn Dataset>> {
    let dataset = open_dataset(&config.data)?;
    if config.adversarial.is_some() {
        dataset.size().context("[adversarial] compares with real pictures")?;
    }
    check_captions(dataset.as_ref(), |caption| {
        model.conditioner.check(caption).map_err(|error| error.to_string())
    })?;
    Ok(dataset)
}

fn distill_in<F: Family>(
    mut model: Model<F>,
    config: &DistillConfig,
    ranks: &Ranks<'_>,
    device: &Device,
) -> anyhow::Result<()> {
    let dataset = open_data(&model, config)?;
    config.check_schedule(model.noising.last_timestep())?;
    let made_from = config.fingerprints(dataset.as_ref())?;
    check_resumable(&config.output, "distillation", &made_from.run)?;
    let saved = if ranks.leads() { config::save(config, &config.output) } else { Ok(()) };
    together(ranks.all, saved)?;
    let mut progress = Progress::new()?;
    let stopped = || {
        say!("stopped; the same command resumes from {}", config.output.display());
        Ok(())
    };
    // Work without exchange: each rank does its share, then waits for the others.
    let all_stop = |made: anyhow::Result<Outcome>| -> anyhow::Result<bool> {
        Ok(any(ranks.all, together(ranks.all, made)? == Outcome::Stopped)?)
    };

    let mut cache = None;
    if let Some(section) = &config.cache {
        let caching = Caching::new(config, section, &model, dataset.as_ref(), device)?;
        if all_stop(caching.make(ranks.share(), &mut progress))? {
            return stopped();
        }
        cache = Some(caching.open()?);
    }
    let mut pairs = None;
    if let Some(section) = &config.regression {
        let (dataset, cache) = (dataset.as_ref(), cache.as_ref());
        let making = Making { config, dataset, cache, model: &model, made_from: &made_from, device };
        if all_stop(making.make(ranks.share(), &mut progress))? {
            return stopped();
        }
        pairs = Some(Pairs::open(&pair_folder(config), section.pairs, model.shape(), &made_from.pairs)?);
    }
    let teacher = model.take_teacher()?;
    let parts = DistillationParts { teacher, dataset, pairs, cache, made_from: made_from.run };
    let stage = together(ranks.all, DistillationStage::new(config.clone(), &model, parts, device))?;
    let mut stage = stage.with_ranks(ranks.all)?;
    if run(&mut stage, &config.pace, &config.output, &mut progress)? == Outcome::Stopped {
        return stopped();
    }
    let written = match ranks.leads() {
        true => stage.trained().write(&config.output, Precision::Half),
        false => Ok(Vec::new()),
    };
    for folder in together(ranks.all, written)? {
        say!("wrote {}", folder.display());
    }
    let (teacher, generator) =
        (config.teacher.display(), ModelFolder::new(&config.output).part(Part::Generator));
    say!("draw with it: dmd generate PROMPT --model {teacher} --generator {}", generator.display());
    Ok(())
}

/// Seconds of a step on this device: the second of two steps with one micro-batch, times the micro-batches of a rank. Nothing
/// is written. The regression's pairs are left out, and nothing is read from a cache.
pub(crate) fn measured_step(config: &DistillConfig, ranks: usize, device: &Device) -> anyhow::Result<f64> {
    let mut one = config.clone();
    let micro_batches = (one.generator.accumulate / ranks).max(1);
    (one.generator.accumulate, one.generator.parallel) = (1, 1);
    (one.regression, one.cache) = (None, None);
    if let Some(section) = &mut one.adversarial {
        section.reals = section.reals.min(4 * one.generator.batch);
    }
    let one_step = with_model!(open(&one, device)?, model => second_step(model, &one, device)?);
    Ok(one_step * micro_batches as f64)
}

fn second_step<F: Family>(
    mut model: Model<F>,
    config: &DistillConfig,
    device: &Device,
) -> anyhow::Result<f64> {
    let dataset = open_data(&model, config)?;
    let teacher = model.take_teacher()?;
    let made_from = Fingerprint::new();
    let parts = DistillationParts { teacher, dataset, pairs: None, cache: None, made_from };
    let mut stage = DistillationStage::new(config.clone(), &model, parts, device)?;
    let mut step = || -> anyhow::Result<f64> {
        let start = Instant::now();
        anyhow::ensure!(stage.step()?.read().is_ok(), "the figures of a step are not finite");
        Ok(start.elapsed().as_secs_f64())
    };
    step()?; // with what a device prepares once
    step()
}

/// Where the pairs of a distillation lie.
fn pair_folder(config: &DistillConfig) -> PathBuf {
    config.output.join("pairs")
}

/// What the regression's pairs are made with.
struct Making<'a, F: Family> {
    config: &'a DistillConfig,
    dataset: &'a dyn Dataset,
    cache: Option<&'a Cache>,
    model: &'a Model<F>,
    made_from: &'a Fingerprints,
    device: &'a Device,
}

impl<F: Family> Making<'_, F> {
    /// Makes a share of the pairs.
    fn make(&self, share: Share, progress: &mut Progress) -> anyhow::Result<Outcome> {
        let Some(section) = &self.config.regression else {
            return Ok(Outcome::Finished); // no term needs any
        };
        let maker = PairMaker {
            model: self.model,
            guidance_scale: self.config.guidance_scale,
            dataset: self.dataset,
            cache: self.cache,
            steps: section.sampling_steps,
            seed: self.config.seed,
            batch: self.config.generator.batch,
            device: self.device,
            made_from: self.made_from.pairs.clone(),
        };
        Ok(maker.make(&pair_folder(self.config), section.pairs, share, progress)?)
    }
}

/// Make the pairs of a distillation: noise, and the sample that the teacher's deterministic sampler draws from it; features
/// of captions come from `dmd cache` if it has made them
#[derive(Debug, Args)]
pub(crate) struct PairsArgs {
    /// Configuration file of a distillation (TOML)
    config: PathBuf,
    /// The share of this process, e.g. 2/4 for the second of four; copy all files into one folder at the end
    /// [default: from the variables of mpirun, srun and Slurm's job arrays; without them 1/1]
    #[arg(long)]
    shard: Option<Share>,
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
    let share = ranks::share(args.shard)?;
    let outcome = with_model!(open(&config, &device)?, model => pairs_in(&model, &config, share, &device));
    let folder = pair_folder(&config);
    match outcome? {
        Outcome::Finished => say!("wrote {}", folder.display()),
        Outcome::Stopped => say!("stopped; the same command continues with what {} lacks", folder.display()),
    }
    Ok(())
}

fn pairs_in<F: Family>(
    model: &Model<F>,
    config: &DistillConfig,
    share: Share,
    device: &Device,
) -> anyhow::Result<Outcome> {
    let dataset = open_data(model, config)?;
    let made_from = config.fingerprints(dataset.as_ref())?;
    let mut cache = None;
    if let Some(section) = config.cache.as_ref().filter(|section| Cache::has_text(&section.path)) {
        cache = Some(Caching::new(config, section, model, dataset.as_ref(), device)?.open_text()?);
    }
    let (dataset, cache) = (dataset.as_ref(), cache.as_ref());
    let making = Making { config, dataset, cache, model, made_from: &made_from, device };
    making.make(share, &mut Progress::new()?)
}
