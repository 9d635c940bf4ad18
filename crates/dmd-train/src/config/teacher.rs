use std::path::{Path, PathBuf};

use dmd_clip::{HiddenActivation, TextConfig, Vocabulary};
use dmd_core::{Prediction, TimeDistribution};
use dmd_data::Dataset;
use dmd_model::MAX_TOKENS;
use dmd_unet::{AutoencoderConfig, PerLevel, UNetConfig};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    DataSection, Schedule, check_optimizer, from_file, require, require_count, require_not_negative,
    require_positive, require_share, require_times,
};
use crate::fingerprint::Fingerprint;
use crate::run::Pace;
use crate::{AdamWConfig, Error};

/// `[autoencoder]` of a teacher: the network between pictures and latents, and its training.
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
    /// Noise that is added to the latents before the decoder sees them, beside the posterior's own: the largest
    /// standard deviation of each octave, in units of the latents' own deviation. The decoder then tolerates small
    /// errors of a generator, and latents that must not be confused move apart. The noise falls with the learning rate,
    /// so that outlines become sharp at the end.
    #[serde(default)]
    pub latent_noise: f64,
    /// Weight of the error of a thumbnail, one pixel per latent, that a linear map makes of the latents. It arranges
    /// colours in the latents as in RGB.
    #[serde(default)]
    pub preview_weight: f64,
    /// Pictures per step.
    pub batch: usize,
    /// Learning rate after the warm-up.
    pub learning_rate: f64,
    /// What the learning rate does after its warm-up: fall to a tenth along a cosine, or stay constant.
    #[serde(default = "Schedule::cosine")]
    pub schedule: Schedule,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// Decay of the parameters' moving average.
    pub ema_decay: f64,
    /// Length of the training, and how often it logs and saves.
    pub pace: Pace,
}

impl AutoencoderSection {
    /// The network's configuration, scaling factor still 1.
    pub(crate) fn architecture(&self, size: u32) -> AutoencoderConfig {
        AutoencoderConfig {
            layers_per_block: self.layers_per_block,
            latent_channels: self.latent_channels,
            norm_num_groups: self.norm_num_groups,
            scaling_factor: 1.0,
            ..AutoencoderConfig::of_widths(size as usize, self.block_out_channels.clone())
        }
    }
}

/// `[text]` of a teacher: the CLIP text encoder.
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

impl TextSection {
    /// The network's configuration for a vocabulary.
    pub(crate) fn architecture(&self, vocabulary: &Vocabulary) -> TextConfig {
        let end = vocabulary.len() - 1;
        TextConfig {
            vocab_size: vocabulary.len(),
            hidden_size: self.width,
            intermediate_size: 4 * self.width,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            max_position_embeddings: MAX_TOKENS,
            hidden_act: HiddenActivation::QuickGelu,
            layer_norm_eps: 1e-5,
            projection_dim: None,
            eos_token_id: u32::try_from(end).ok(),
            other: [
                ("architectures".to_owned(), json!(["CLIPTextModel"])),
                ("model_type".to_owned(), json!("clip_text_model")),
                ("bos_token_id".to_owned(), json!(end - 1)),
                ("pad_token_id".to_owned(), json!(end)),
            ]
            .into(),
        }
    }
}

/// `[unet]` of a teacher: the denoising network.
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
    pub(crate) fn architecture(&self, sample_size: usize, channels: usize, text_width: usize) -> UNetConfig {
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

/// `[grounding]` of a teacher: the stage that trains the text encoder alone, before the UNet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroundingSection {
    /// Captions per step.
    pub batch: usize,
    /// Learning rate after the warm-up.
    pub learning_rate: f64,
    /// What the learning rate does after its warm-up: fall to a tenth along a cosine, or stay constant.
    #[serde(default = "Schedule::cosine")]
    pub schedule: Schedule,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// Length of the training, and how often it logs and saves.
    pub pace: Pace,
}

/// `[diffusion]` of a teacher: the stage that trains text encoder and UNet together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffusionSection {
    /// Number of pictures that are taken from the data, encoded once and kept as latents.
    pub pool: usize,
    /// Captions per step.
    pub batch: usize,
    /// Noise levels per caption and step: the text is encoded once for all of them.
    pub levels_per_caption: usize,
    /// The parameterisation whose squared error is the loss; the network always predicts epsilon. `epsilon` is DDPM's
    /// loss. `velocity` gives high noise levels, where the caption decides, their full weight (Salimans and Ho 2022:
    /// `SNR + 1`).
    pub loss: Prediction,
    /// Share of the noise levels that are drawn from the noisier half of the schedule, where captions are learned. The
    /// others are drawn from the whole schedule.
    pub noisy_half_share: f64,
    /// How often each noise level is drawn, within the half and within the whole: by default equally (DDPM).
    #[serde(default, skip_serializing_if = "TimeDistribution::is_uniform")]
    pub times: TimeDistribution,
    /// Share of captions that are replaced by the empty one, so that the teacher can be guided.
    pub caption_dropout: f64,
    /// Learning rate after the warm-up.
    pub learning_rate: f64,
    /// What the learning rate does after its warm-up: fall to a tenth along a cosine, or stay constant.
    #[serde(default = "Schedule::cosine")]
    pub schedule: Schedule,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// Decay of the parameters' moving average.
    pub ema_decay: f64,
    /// Length of the training, and how often it logs and saves.
    pub pace: Pace,
}

/// `[optimizer]` of a teacher: constants of AdamW, the same for all stages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TeacherOptimizer {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay of the parameters.
    pub weight_decay: f64,
    /// Gradients are scaled down to at most this global L2 norm.
    pub max_norm: f64,
}

impl Default for TeacherOptimizer {
    fn default() -> Self {
        let AdamWConfig { beta1, beta2, epsilon, weight_decay, .. } = AdamWConfig::default();
        Self { beta1, beta2, epsilon, weight_decay, max_norm: 1.0 }
    }
}

impl TeacherOptimizer {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// An error for the first option whose value is not allowed.
    pub(super) fn check(self) -> Result<(), Error> {
        check_optimizer(&self.into())
    }

    /// These options in a fingerprint; the default ones are left out of it.
    pub(super) fn recorded(self) -> Option<Self> {
        (!self.is_default()).then_some(self)
    }
}

impl From<TeacherOptimizer> for AdamWConfig {
    fn from(options: TeacherOptimizer) -> Self {
        let TeacherOptimizer { beta1, beta2, epsilon, weight_decay, max_norm } = options;
        Self { beta1, beta2, epsilon, weight_decay, max_norm }
    }
}

/// The configuration of `dmd teacher`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherConfig {
    /// Seed of every random number.
    pub seed: u64,
    /// Folder of the run: checkpoints, metrics, grids, and at the end `model/`.
    pub output: PathBuf,
    /// Where pictures and captions come from.
    pub data: DataSection,
    /// The autoencoder and its training.
    pub autoencoder: AutoencoderSection,
    /// The text encoder.
    pub text: TextSection,
    /// The UNet.
    pub unet: UNetSection,
    /// The stage that trains the text encoder before the UNet.
    pub grounding: GroundingSection,
    /// The stage that trains both together.
    pub diffusion: DiffusionSection,
    /// Constants of the optimiser, for all stages.
    #[serde(default, skip_serializing_if = "TeacherOptimizer::is_default")]
    pub optimizer: TeacherOptimizer,
}

impl TeacherConfig {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    ///
    /// [`Error::ReadConfig`], [`Error::ParseConfig`] naming line and key, or [`Error::Option`] naming the first
    /// option whose value is not allowed.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let config: Self = from_file(path)?;
        config.check()?;
        Ok(config)
    }

    /// What the autoencoder's checkpoint depends on.
    ///
    /// # Errors
    ///
    /// [`Error::Fingerprint`] when the section cannot be recorded.
    pub fn autoencoder_from(&self, dataset: &dyn Dataset) -> Result<Fingerprint, Error> {
        let made_from = Fingerprint::new().with("seed", self.seed)?.with("data", dataset.fingerprint())?;
        let made_from = made_from.with("optimizer", self.optimizer.recorded())?;
        Ok(made_from.with("autoencoder", &self.autoencoder)?.without(&[
            "autoencoder.batch",
            "autoencoder.learning_rate",
            "autoencoder.schedule",
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
            "diffusion.schedule",
            "diffusion.warmup_steps",
            "diffusion.ema_decay",
            "diffusion.pace",
        ]))
    }

    fn check(&self) -> Result<(), Error> {
        let (a, g, d) = (&self.autoencoder, &self.grounding, &self.diffusion);
        require_count("autoencoder.batch", a.batch)?;
        require_count("diffusion.batch", d.batch)?;
        require_count("diffusion.pool", d.pool)?;
        require_count("diffusion.levels_per_caption", d.levels_per_caption)?;
        require_positive("autoencoder.learning_rate", a.learning_rate)?;
        require_positive("diffusion.learning_rate", d.learning_rate)?;
        require_not_negative("autoencoder.kl_weight", a.kl_weight)?;
        require_not_negative("autoencoder.latent_noise", a.latent_noise)?;
        require_not_negative("autoencoder.preview_weight", a.preview_weight)?;
        require_count("grounding.batch", g.batch)?;
        require_positive("grounding.learning_rate", g.learning_rate)?;
        for (key, share) in [
            ("diffusion.noisy_half_share", d.noisy_half_share),
            ("diffusion.caption_dropout", d.caption_dropout),
        ] {
            require((0.0..=1.0).contains(&share), key, share, "between 0 and 1")?;
        }
        require_times("diffusion.times", d.times)?;
        self.optimizer.check()?;
        require_share("autoencoder.ema_decay", a.ema_decay)?;
        require_share("diffusion.ema_decay", d.ema_decay)?;
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
