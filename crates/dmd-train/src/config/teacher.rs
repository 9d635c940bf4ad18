use std::path::{Path, PathBuf};

use dmd_core::Prediction;
use dmd_data::Dataset;
use dmd_unet::{AutoencoderConfig, PerLevel, UNetConfig};
use serde::{Deserialize, Serialize};

use super::{DataSection, from_file, is_not_negative, is_positive, require};
use crate::Error;
use crate::fingerprint::Fingerprint;
use crate::run::Pace;

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
    /// Noise on the latents that the decoder sees, beside the posterior's own: the largest standard
    /// deviation of each octave, in the latents' own. What a generator gets a little wrong shall not show;
    /// it drives apart what must not be mixed up. It falls with the learning rate, so that outlines
    /// become exact at the end.
    #[serde(default)]
    pub latent_noise: f64,
    /// Weight of the thumbnail that a linear map makes of the latents.
    #[serde(default)]
    pub preview_weight: f64,
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
        AutoencoderConfig {
            layers_per_block: self.layers_per_block,
            latent_channels: self.latent_channels,
            norm_num_groups: self.norm_num_groups,
            scaling_factor: 1.0,
            ..AutoencoderConfig::of_widths(size as usize, self.block_out_channels.clone())
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
        UNetConfig {
            in_channels: channels,
            out_channels: channels,
            layers_per_block: self.layers_per_block,
            attention_head_dim: PerLevel::All(self.heads),
            norm_num_groups: self.norm_num_groups,
            ..UNetConfig::attending(sample_size, self.block_out_channels.clone(), text_width)
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

    /// What the autoencoder's checkpoint depends on.
    ///
    /// # Errors
    ///
    /// [`Error::Fingerprint`] when the section cannot be recorded.
    pub fn autoencoder_from(&self, dataset: &dyn Dataset) -> Result<Fingerprint, Error> {
        let made_from = Fingerprint::new().with("seed", self.seed)?.with("data", dataset.fingerprint())?;
        Ok(made_from.with("autoencoder", &self.autoencoder)?.without(&[
            "autoencoder.batch",
            "autoencoder.learning_rate",
            "autoencoder.warmup_steps",
            "autoencoder.ema_decay",
            "autoencoder.pace",
        ]))
    }

    /// What the checkpoint of the text encoder depends on: the autoencoder, whose files have the hash `vae`, and the
    /// pool of latents.
    ///
    /// # Errors
    ///
    /// As [`Self::autoencoder_from`].
    pub fn grounding_from(&self, dataset: &dyn Dataset, vae: &str) -> Result<Fingerprint, Error> {
        let made_from = self.autoencoder_from(dataset)?.with("vae", vae)?.with("text", &self.text)?;
        made_from.with("diffusion.pool", self.diffusion.pool)
    }

    /// What the checkpoint of text encoder and UNet depends on.
    ///
    /// # Errors
    ///
    /// As [`Self::autoencoder_from`].
    pub fn diffusion_from(&self, dataset: &dyn Dataset, vae: &str) -> Result<Fingerprint, Error> {
        let made_from = self.grounding_from(dataset, vae)?.with("unet", &self.unet)?;
        Ok(made_from.with("diffusion", &self.diffusion)?.without(&[
            "diffusion.batch",
            "diffusion.levels_per_caption",
            "diffusion.learning_rate",
            "diffusion.warmup_steps",
            "diffusion.ema_decay",
            "diffusion.pace",
        ]))
    }

    fn validate(&self) -> Result<(), Error> {
        let positive = "at least 1";
        let (a, d) = (&self.autoencoder, &self.diffusion);
        require(a.batch > 0, "autoencoder.batch", a.batch, positive)?;
        require(d.batch > 0, "diffusion.batch", d.batch, positive)?;
        require(d.pool > 0, "diffusion.pool", d.pool, positive)?;
        require(d.levels_per_caption > 0, "diffusion.levels_per_caption", d.levels_per_caption, positive)?;
        require(
            is_positive(a.learning_rate),
            "autoencoder.learning_rate",
            a.learning_rate,
            "a positive number",
        )?;
        require(
            is_positive(d.learning_rate),
            "diffusion.learning_rate",
            d.learning_rate,
            "a positive number",
        )?;
        require(is_not_negative(a.kl_weight), "autoencoder.kl_weight", a.kl_weight, "0 or more")?;
        require(is_not_negative(a.latent_noise), "autoencoder.latent_noise", a.latent_noise, "0 or more")?;
        require(
            is_not_negative(a.preview_weight),
            "autoencoder.preview_weight",
            a.preview_weight,
            "0 or more",
        )?;
        let g = &self.grounding;
        require(g.batch > 0, "grounding.batch", g.batch, positive)?;
        require(
            is_positive(g.learning_rate),
            "grounding.learning_rate",
            g.learning_rate,
            "a positive number",
        )?;
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
        let halvings = a.block_out_channels.len().saturating_sub(1);
        let factor = u32::try_from(halvings).ok().and_then(|halvings| 1_u32.checked_shl(halvings));
        let size = self.data.size();
        require(
            size.zip(factor).is_some_and(|(size, factor)| size > 0 && size.is_multiple_of(factor)),
            "data.size",
            size.map_or_else(|| "none".to_owned(), |size| size.to_string()),
            "divisible by the autoencoder's downsampling",
        )
    }
}
