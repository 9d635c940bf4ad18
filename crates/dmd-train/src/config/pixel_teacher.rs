use std::path::{Path, PathBuf};

use dmd_data::Dataset;
use dmd_unet::ClassUNetConfig;
use serde::{Deserialize, Serialize};

use super::{
    DataSection, Schedule, TeacherOptimizer, from_file, require, require_count, require_positive,
    require_share,
};
use crate::Error;
use crate::fingerprint::Fingerprint;
use crate::run::Pace;

/// `[unet]` of a teacher on pixels: the denoising network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PixelUNetSection {
    /// Channels per level; the deepest level has attention.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level.
    pub layers_per_block: usize,
    /// Channels of an attention head.
    pub attention_head_dim: usize,
    /// Groups of every normalisation.
    pub norm_num_groups: usize,
}

impl PixelUNetSection {
    /// The network's configuration for square colour pictures of a size and a number of classes (0: none).
    pub(crate) fn architecture(&self, size: usize, classes: usize) -> ClassUNetConfig {
        let mut config = ClassUNetConfig::small(size, 3, self.block_out_channels.clone(), classes);
        config.layers_per_block = self.layers_per_block;
        config.attention_head_dim = self.attention_head_dim;
        config.norm_num_groups = self.norm_num_groups;
        config.other.insert("attn_norm_num_groups".to_owned(), self.norm_num_groups.into());
        config
    }
}

/// `[training]` of a teacher on pixels: its one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PixelTrainingSection {
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
    /// Share of the pictures whose class is hidden from the network, so that the teacher can be guided.
    pub class_dropout: f64,
    /// Length of the training, and how often it logs and saves.
    pub pace: Pace,
}

/// The configuration of `dmd teacher` for a class-conditional EDM model on pixels: `kind = "pixels"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PixelTeacherConfig {
    /// Always `"pixels"`; it distinguishes this file from that of a text-to-image teacher.
    pub kind: PixelKind,
    /// Seed of every random number.
    pub seed: u64,
    /// Folder of the run: checkpoints, metrics, grids, and at the end `model/`.
    pub output: PathBuf,
    /// Where pictures come from; their captions are the classes.
    pub data: DataSection,
    /// The network.
    pub unet: PixelUNetSection,
    /// Its training.
    pub training: PixelTrainingSection,
    /// Constants of the optimiser.
    #[serde(default, skip_serializing_if = "TeacherOptimizer::is_default")]
    pub optimizer: TeacherOptimizer,
}

/// `kind` of a teacher on pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PixelKind {
    /// A class-conditional EDM model on pixels.
    Pixels,
}

impl PixelTeacherConfig {
    /// Whether a configuration file is of this kind: it has a `kind`.
    ///
    /// # Errors
    ///
    /// [`Error::ReadConfig`] or [`Error::ParseConfig`].
    pub fn is_meant(path: &Path) -> Result<bool, Error> {
        Ok(from_file::<toml::Table>(path)?.contains_key("kind"))
    }

    /// Reads and checks a configuration.
    ///
    /// # Errors
    ///
    /// [`Error::ReadConfig`], [`Error::ParseConfig`] naming line and key, or [`Error::Option`] naming the first
    /// option whose value is not allowed.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let config: Self = from_file(path)?;
        let t = &config.training;
        require_count("training.batch", t.batch)?;
        require_positive("training.learning_rate", t.learning_rate)?;
        require_share("training.ema_decay", t.ema_decay)?;
        require_share("training.class_dropout", t.class_dropout)?;
        config.optimizer.check()?;
        let halvings = config.unet.block_out_channels.len().saturating_sub(1) as u32;
        let size = config.data.size().unwrap_or(0);
        require(
            size > 0 && size.trailing_zeros() >= halvings,
            "data.size",
            size,
            "divisible by 2 once for each level of unet.block_out_channels but the first",
        )?;
        Ok(config)
    }

    /// What the teacher's checkpoint depends on.
    ///
    /// # Errors
    ///
    /// [`Error::Fingerprint`] when a section cannot be recorded.
    pub fn made_from(&self, dataset: &dyn Dataset) -> Result<Fingerprint, Error> {
        let made_from = Fingerprint::new().with("seed", self.seed)?.with("data", dataset.fingerprint())?;
        let dropout = self.training.class_dropout;
        let made_from = made_from.with("optimizer", self.optimizer.recorded())?;
        made_from.with("unet", &self.unet)?.with("training.class_dropout", dropout)
    }
}
