//! Configuration files of `dmd teacher` and `dmd distill`: TOML, unknown keys refused.

use std::fs;
use std::path::{Path, PathBuf};

use dmd_core::Prediction;
use dmd_unet::{AutoencoderConfig, PerLevel, UNetConfig};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::data::{ImageFolder, Source};
use crate::run::Pace;

/// `[data]`: where captioned pictures come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum DataSection {
    /// The procedural shapes.
    Shapes {},
    /// A folder with `metadata.jsonl`.
    Folder {
        /// The folder.
        path: PathBuf,
        /// Height and width the pictures are resized to.
        size: u32,
    },
}

impl DataSection {
    /// Opens the source.
    ///
    /// # Errors
    ///
    /// As [`ImageFolder::open`].
    pub fn open(&self) -> Result<Source, Error> {
        Ok(match self {
            Self::Shapes {} => Source::Shapes,
            Self::Folder { path, size } => Source::Folder(ImageFolder::open(path, *size)?),
        })
    }
}

/// `[autoencoder]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderSection {
    /// Channels per level; each level but the last halves the picture.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level.
    pub layers_per_block: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Groups of every normalisation.
    pub norm_num_groups: usize,
    /// Weight of the divergence from the unit Gaussian.
    pub kl_weight: f64,
    /// Pictures per step.
    pub batch: usize,
    /// Peak learning rate of the cosine.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// Decay of the parameters' moving average.
    pub ema_decay: f64,
    /// How long and how often.
    pub pace: Pace,
}

impl AutoencoderSection {
    /// The network's configuration, scaling factor still 1.
    pub fn architecture(&self, size: u32) -> AutoencoderConfig {
        let levels = self.block_out_channels.len();
        AutoencoderConfig {
            class_name: "AutoencoderKL".to_owned(),
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec!["DownEncoderBlock2D".to_owned(); levels],
            up_block_types: vec!["UpDecoderBlock2D".to_owned(); levels],
            block_out_channels: self.block_out_channels.clone(),
            layers_per_block: self.layers_per_block,
            latent_channels: self.latent_channels,
            norm_num_groups: self.norm_num_groups,
            sample_size: size as usize,
            scaling_factor: 1.0,
            other: [("act_fn".to_owned(), "silu".into())].into(),
        }
    }
}

/// `[text]`: the CLIP text encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSection {
    /// Width of the features.
    pub width: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
}

/// `[unet]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UNetSection {
    /// Channels per level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level.
    pub layers_per_block: usize,
    /// Attention heads at every level.
    pub heads: usize,
    /// Groups of every normalisation.
    pub norm_num_groups: usize,
}

impl UNetSection {
    /// The network's configuration for latents of a size and text of a width.
    pub fn architecture(&self, sample_size: usize, channels: usize, text_width: usize) -> UNetConfig {
        let levels = self.block_out_channels.len();
        UNetConfig {
            class_name: "UNet2DConditionModel".to_owned(),
            sample_size,
            in_channels: channels,
            out_channels: channels,
            down_block_types: vec!["CrossAttnDownBlock2D".to_owned(); levels],
            up_block_types: vec!["CrossAttnUpBlock2D".to_owned(); levels],
            block_out_channels: self.block_out_channels.clone(),
            layers_per_block: self.layers_per_block,
            cross_attention_dim: text_width,
            attention_head_dim: PerLevel::All(self.heads),
            norm_num_groups: self.norm_num_groups,
            norm_eps: 1e-5,
            use_linear_projection: false,
            other: [("act_fn".to_owned(), "silu".into())].into(),
        }
    }
}

/// `[grounding]`: the text encoder alone, before the UNet joins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroundingSection {
    /// Captions per step.
    pub batch: usize,
    /// Peak learning rate of the cosine.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// How long and how often.
    pub pace: Pace,
}

/// `[diffusion]`: training of text encoder and UNet together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffusionSection {
    /// Pictures that are drawn, encoded once and kept as latents.
    pub pool: usize,
    /// Captions per step.
    pub batch: usize,
    /// Noise levels per caption and step: the text is encoded once for all of them.
    pub levels_per_caption: usize,
    /// The parameterisation whose squared error is the loss, whatever the network predicts.
    /// `epsilon` is DDPM's; `velocity` gives high noise levels, where the caption decides, their
    /// full weight (Salimans and Ho 2022: `SNR + 1`).
    pub loss: Prediction,
    /// Share of the noise levels drawn from the noisier half of the schedule alone, where captions
    /// are learned; the rest is uniform over all.
    pub noisy_half_share: f64,
    /// Share of captions replaced by the empty one, for guidance.
    pub caption_dropout: f64,
    /// Peak learning rate of the cosine.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// Decay of the parameters' moving average.
    pub ema_decay: f64,
    /// How long and how often.
    pub pace: Pace,
}

/// The configuration of `dmd teacher`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherConfig {
    /// Seed of every random number.
    pub seed: u64,
    /// Folder of the run: checkpoints, metrics, grids, and at the end `model/`.
    pub output: PathBuf,
    /// Where pictures come from.
    pub data: DataSection,
    /// The autoencoder and its training.
    pub autoencoder: AutoencoderSection,
    /// The text encoder.
    pub text: TextSection,
    /// The UNet.
    pub unet: UNetSection,
    /// The text encoder's training before the UNet's.
    pub grounding: GroundingSection,
    /// Their training together.
    pub diffusion: DiffusionSection,
}

/// `[generator]` of a distillation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratorSection {
    /// Samples per turn.
    pub batch: usize,
    /// Peak learning rate of the cosine.
    pub learning_rate: f64,
    /// Steps of linear warm-up, of generator and fake score.
    pub warmup_steps: usize,
    /// Decay of the parameters' moving average (0: none, as in DMD and DMD2).
    pub ema_decay: f64,
}

/// `[fake]` of a distillation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FakeSection {
    /// Constant learning rate after the warm-up.
    pub learning_rate: f64,
    /// The parameterisation whose squared error is the loss (DMD and DMD2: the teacher's own,
    /// `epsilon`; see `diffusion.loss` of a teacher).
    pub loss: Prediction,
    /// Updates per generator update (DMD: 1; DMD2: 5 to 10).
    pub steps_per_generator_step: usize,
}

/// `[matching]` of a distillation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatchingSection {
    /// Lowest timestep the samples are diffused to (DMD: 20 of 1000).
    pub first_timestep: usize,
    /// Highest timestep (DMD: 980 of 1000).
    pub last_timestep: usize,
}

/// `[regression]` of a distillation: DMD's paired term. Left out, there is none (DMD2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegressionSection {
    /// Weight beside the matching term (DMD: 0.25).
    pub weight: f64,
    /// Pairs of noise and teacher's sample.
    pub pairs: usize,
    /// Sampling steps of a pair.
    pub sampling_steps: usize,
    /// First steps with the regression term alone.
    pub warmup_steps: usize,
}

/// The configuration of `dmd distill`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillConfig {
    /// Seed of every random number.
    pub seed: u64,
    /// Folder of the teacher's model.
    pub teacher: PathBuf,
    /// Folder of the run: checkpoints, metrics, grids, pairs, and at the end `unet_one_step/`.
    pub output: PathBuf,
    /// Where captions come from.
    pub data: DataSection,
    /// Guidance of the teacher, in pairs and in the matching term.
    pub guidance_scale: f64,
    /// The generator's training.
    pub generator: GeneratorSection,
    /// The fake score's training.
    pub fake: FakeSection,
    /// The matching term.
    pub matching: MatchingSection,
    /// The regression term.
    pub regression: Option<RegressionSection>,
    /// How long and how often.
    pub pace: Pace,
}

impl DistillConfig {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    ///
    /// As [`from_file`]; [`Error::Option`] naming the first option without sense.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let config: Self = from_file(path)?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), Error> {
        let (g, f, m) = (&self.generator, &self.fake, &self.matching);
        let positive = "at least 1";
        require(g.batch > 0, "generator.batch", g.batch, positive)?;
        require(
            f.steps_per_generator_step > 0,
            "fake.steps_per_generator_step",
            f.steps_per_generator_step,
            positive,
        )?;
        let rate = |v: f64| v.is_finite() && v > 0.0;
        require(rate(g.learning_rate), "generator.learning_rate", g.learning_rate, "a positive number")?;
        require(rate(f.learning_rate), "fake.learning_rate", f.learning_rate, "a positive number")?;
        require((0.0..1.0).contains(&g.ema_decay), "generator.ema_decay", g.ema_decay, "between 0 and 1")?;
        let scale = self.guidance_scale;
        require(scale.is_finite() && scale >= 1.0, "guidance_scale", scale, "at least 1")?;
        require(
            m.first_timestep <= m.last_timestep,
            "matching.first_timestep",
            m.first_timestep,
            "at most matching.last_timestep",
        )?;
        require(m.last_timestep < 1000, "matching.last_timestep", m.last_timestep, "below 1000")?;
        if let Some(r) = &self.regression {
            require(r.pairs > 0, "regression.pairs", r.pairs, positive)?;
            require(r.sampling_steps > 0, "regression.sampling_steps", r.sampling_steps, positive)?;
            require(r.weight.is_finite() && r.weight >= 0.0, "regression.weight", r.weight, "0 or more")?;
        }
        Ok(())
    }
}

fn require(holds: bool, key: &'static str, value: impl ToString, must: &'static str) -> Result<(), Error> {
    if holds {
        return Ok(());
    }
    Err(Error::Option { key, value: value.to_string(), must })
}

/// Reads a TOML file into a configuration.
///
/// # Errors
///
/// [`Error::ReadConfig`], or [`Error::ParseConfig`] naming line and key.
pub fn from_file<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text =
        fs::read_to_string(path).map_err(|source| Error::ReadConfig { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|error| Error::ParseConfig {
        path: path.to_owned(),
        reason: error.to_string().trim().replace('\n', " "),
    })
}

/// Writes a configuration, every default spelt out, as `config.toml` into a run's folder.
///
/// # Errors
///
/// [`Error::ParseConfig`] when it has no TOML form, [`Error::Weights`] when it cannot be written.
pub fn save<T: Serialize>(config: &T, run: &Path) -> Result<(), Error> {
    let path = run.join("config.toml");
    let text = toml::to_string_pretty(config)
        .map_err(|error| Error::ParseConfig { path: path.clone(), reason: error.to_string() })?;
    Ok(dmd_weights::write_atomic(&path, text.as_bytes())?)
}

impl TeacherConfig {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    ///
    /// As [`from_file`]; [`Error::Option`] naming the first option without sense.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let config: Self = from_file(path)?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), Error> {
        let positive = "at least 1";
        let (a, d) = (&self.autoencoder, &self.diffusion);
        require(a.batch > 0, "autoencoder.batch", a.batch, positive)?;
        require(d.batch > 0, "diffusion.batch", d.batch, positive)?;
        require(d.pool > 0, "diffusion.pool", d.pool, positive)?;
        require(d.levels_per_caption > 0, "diffusion.levels_per_caption", d.levels_per_caption, positive)?;
        let rate = |v: f64| v.is_finite() && v > 0.0;
        require(rate(a.learning_rate), "autoencoder.learning_rate", a.learning_rate, "a positive number")?;
        require(rate(d.learning_rate), "diffusion.learning_rate", d.learning_rate, "a positive number")?;
        let g = &self.grounding;
        require(g.batch > 0, "grounding.batch", g.batch, positive)?;
        require(rate(g.learning_rate), "grounding.learning_rate", g.learning_rate, "a positive number")?;
        let share = "between 0 and 1";
        let noisy = d.noisy_half_share;
        require((0.0..=1.0).contains(&noisy), "diffusion.noisy_half_share", noisy, share)?;
        require(
            (0.0..=1.0).contains(&d.caption_dropout),
            "diffusion.caption_dropout",
            d.caption_dropout,
            share,
        )?;
        require((0.0..1.0).contains(&a.ema_decay), "autoencoder.ema_decay", a.ema_decay, share)?;
        require((0.0..1.0).contains(&d.ema_decay), "diffusion.ema_decay", d.ema_decay, share)?;
        require(
            self.text.heads > 0 && self.text.width.is_multiple_of(self.text.heads),
            "text.heads",
            self.text.heads,
            "a divisor of text.width",
        )?;
        let factor = 1_u32 << (a.block_out_channels.len().max(1) - 1);
        let size = match &self.data {
            DataSection::Shapes {} => crate::shapes::SIZE,
            DataSection::Folder { size, .. } => *size,
        };
        require(
            size > 0 && size % factor == 0,
            "data.size",
            size,
            "divisible by the autoencoder's downsampling",
        )
    }
}
