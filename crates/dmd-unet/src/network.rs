use std::fmt::Debug;
use std::path::Path;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, FloatDType, Tensor};
use dmd_core::Condition;
use dmd_weights::{KeyMap, Precision, Tensors, write_json};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Costs, Discriminator, Error};

/// A diffusion network: its files, its halves, its sizes. [`Preconditioned`](crate::Preconditioned) gives its output
/// a meaning.
///
/// Inputs and outputs are in single precision; a network whose parameters have another float type converts them.
pub trait Network: Module + ModuleDisplay + Sync {
    /// What a sample is conditioned on, one row per sample.
    type Condition: Condition;
    /// `config.json`.
    type Config: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync;

    /// Where parameter paths differ from a file's keys.
    const KEYS: KeyMap;

    /// Whether samples may have sides that the levels do not halve evenly. As in diffusers, the way up then has the
    /// sizes of the way down.
    const HALVES_ODD: bool = false;

    /// Checks that every option is one that this implementation computes.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] naming the first option that is not.
    fn validate(config: &Self::Config) -> Result<(), Error>;

    /// A network with fresh random parameters.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] naming the first option that this implementation does not compute.
    fn init(config: &Self::Config, device: &Device) -> Result<Self, Error>;

    /// What the parts around a network of this configuration have to match.
    fn sizes(config: &Self::Config) -> Sizes;

    /// The network under a guidance that it is told as a number ([`Sizes::told_guidance`]); any other network is the same
    /// as before.
    fn with_guidance(self, scale: f64) -> Self {
        let _ = scale;
        self
    }

    /// The network with blocks that are computed again in a backward pass, in place of keeping their activations. The
    /// gradients are the same bit by bit, but for those of the time embedding's layers, whose sum is in another order.
    fn recomputing(self) -> Self {
        self
    }

    /// The network computed in another float type than its parameters have ("mixed precision", Micikevicius et al. 2018):
    /// each layer converts its parameters for the call, and their gradients come back in their own type. Normalisations,
    /// softmax, the time's embedding and the critic's head stay in single precision.
    fn computing_in(self, dtype: FloatDType) -> Self {
        let _ = dtype;
        self
    }

    /// The network's output, `[batch, out_channels, height, width]`.
    ///
    /// # Shapes
    ///
    /// - `x`: `[batch, in_channels, height, width]`, height and width divisible by [`Sizes::downsampling`]
    ///   unless [`Self::HALVES_ODD`]
    /// - `t`: `[batch]`
    /// - `condition`: `batch` rows
    fn forward(&self, x: Tensor<4>, t: Tensor<1>, condition: &Self::Condition) -> Tensor<4>;

    /// What the network's parts cost for a sample of `[height, width]`. The parameters need no values.
    fn costs(&self, side: [usize; 2]) -> Costs;

    /// The first half alone: the output of the middle block, `[batch, channels, height / 2^k, width / 2^k]`, on which
    /// a critic is placed.
    ///
    /// # Shapes
    ///
    /// As [`Self::forward`].
    fn encode(&self, x: Tensor<4>, t: Tensor<1>, condition: &Self::Condition) -> Tensor<4>;

    /// A network with the weights of a file.
    ///
    /// # Errors
    ///
    /// As [`Self::init`], and when the file's tensors are not the network's.
    fn from_tensors(config: &Self::Config, file: &Tensors, device: &Device) -> Result<Self, Error> {
        Ok(dmd_weights::load(Self::init(config, device)?, file, &Self::KEYS)?)
    }

    /// [`Self::from_tensors`], frozen, with the parameters in a float type.
    ///
    /// # Errors
    ///
    /// As [`Self::from_tensors`].
    fn from_tensors_in(
        config: &Self::Config,
        file: &Tensors,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<Self, Error> {
        Ok(dmd_weights::load_in(Self::init(config, device)?, file, &Self::KEYS, dtype)?)
    }

    /// Writes a diffusers folder: the weights, then `config.json`, whose presence says that the folder is whole.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    fn save(&self, config: &Self::Config, folder: &Path, precision: Precision) -> Result<(), Error> {
        let path = folder.join("diffusion_pytorch_model.safetensors");
        dmd_weights::save(self, &path, &Self::KEYS, precision)?;
        Ok(write_json(&folder.join("config.json"), config)?)
    }
}

/// Sizes of a network that the parts around it have to match, read from its configuration alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Channels of `x_t`.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Height and width of the samples that the network was trained on.
    pub sample_size: usize,
    /// The factor between a sample's height and the bottleneck's.
    pub downsampling: usize,
    /// Width of the text features, for a network that attends to them.
    pub context_width: Option<usize>,
    /// Number of classes; 0 for a network without.
    pub classes: usize,
    /// Whether the network is told its guidance as a number, as latent consistency models are.
    pub told_guidance: bool,
    /// Channels of the bottleneck.
    pub bottleneck_channels: usize,
    /// Groups of every group normalisation.
    pub norm_num_groups: usize,
}

impl Sizes {
    /// Shape of a sample, `[channels, height, width]`.
    pub fn sample(&self) -> [usize; 3] {
        [self.in_channels, self.sample_size, self.sample_size]
    }

    /// A critic's head for the network's bottleneck, with fresh random parameters.
    ///
    /// # Errors
    ///
    /// [`Error::NoCritic`] when the samples are too small for one.
    pub fn critic(&self, device: &Device) -> Result<Discriminator, Error> {
        let side = self.sample_size / self.downsampling;
        if side < 2 || !side.is_multiple_of(2) {
            return Err(Error::NoCritic { side });
        }
        Ok(Discriminator::new(self.bottleneck_channels, side, self.norm_num_groups, device))
    }
}
