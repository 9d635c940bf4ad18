use std::path::PathBuf;

use burn::tensor::Device;
use clap::Args;
use dmd_data::Dataset;
use dmd_model::{Family, Model, with_model};
use dmd_train::cache::{Cache, CacheFingerprints, CacheMaker};
use dmd_train::config::{CacheSection, DistillConfig};
use dmd_train::pairs::Share;
use dmd_train::run::Outcome;

use super::distill::{open, open_data};
use super::progress::Progress;
use super::ranks;
use crate::console::say;

/// Compute the latents of real pictures and the features of captions for a distillation, once
#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    /// Configuration file of a distillation (TOML) with a section [cache]
    config: PathBuf,
    /// The share of this process, e.g. 2/4 for the second of four that run at the same time
    /// [default: from the variables of mpirun, srun and Slurm's job arrays; without them 1/1]
    #[arg(long)]
    shard: Option<Share>,
    /// Device to compute on
    #[arg(long, default_value = "flex")]
    device: String,
}

pub(crate) fn cache(args: &CacheArgs) -> anyhow::Result<()> {
    let config = DistillConfig::from_file(&args.config)?;
    let Some(section) = &config.cache else {
        anyhow::bail!("{:?} has no [cache] section; add one with the path of a folder", args.config);
    };
    let device = dmd_kernels::device::open(&args.device)?;
    let share = ranks::share(args.shard)?;
    let outcome = with_model!(open(&config, &device)?, model => {
        let dataset = open_data(&model, &config)?;
        let making = Caching::new(&config, section, &model, dataset.as_ref(), &device)?;
        making.make(share, &mut Progress::new()?)
    });
    let folder = section.path.display();
    match outcome? {
        Outcome::Finished => say!("wrote {folder}"),
        Outcome::Stopped => say!("stopped; the same command continues with what {folder} lacks"),
    }
    Ok(())
}

/// What the cache of a distillation is made with.
pub(crate) struct Caching<'a, F: Family> {
    section: &'a CacheSection,
    model: &'a Model<F>,
    dataset: &'a dyn Dataset,
    /// Real pictures are for the critic alone.
    latents: bool,
    made_from: CacheFingerprints,
    device: &'a Device,
}

impl<'a, F: Family> Caching<'a, F> {
    pub(crate) fn new(
        config: &DistillConfig,
        section: &'a CacheSection,
        model: &'a Model<F>,
        dataset: &'a dyn Dataset,
        device: &'a Device,
    ) -> anyhow::Result<Self> {
        let (latents, made_from) = (config.adversarial.is_some(), config.cache_fingerprints(dataset)?);
        Ok(Self { section, model, dataset, latents, made_from, device })
    }

    /// Makes a share of the files.
    pub(crate) fn make(&self, share: Share, progress: &mut Progress) -> anyhow::Result<Outcome> {
        let maker = CacheMaker {
            model: self.model,
            dataset: self.dataset,
            latents: self.latents,
            precision: self.section.latents.into(),
            device: self.device,
            made_from: self.made_from.clone(),
        };
        Ok(maker.make(&self.section.path, share, progress)?)
    }

    /// Opens the features of captions that were made.
    pub(crate) fn open_text(&self) -> anyhow::Result<Cache> {
        Ok(Cache::open(&self.section.path, self.model, self.dataset, false, &self.made_from)?)
    }

    /// Opens what was made.
    pub(crate) fn open(&self) -> anyhow::Result<Cache> {
        let (folder, made_from) = (&self.section.path, &self.made_from);
        Ok(Cache::open(folder, self.model, self.dataset, self.latents, made_from)?)
    }
}
