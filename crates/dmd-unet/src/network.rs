use std::fmt::Debug;
use std::path::Path;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, FloatDType, Tensor};
use dmd_core::Condition;
use dmd_weights::{KeyMap, Precision, Tensors, write_json};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Costs, Discriminator, Error};

/// A diffusion network: how it is made, loaded, saved and called. [`Preconditioned`](crate::Preconditioned) defines
/// what its output means.
///
/// Inputs and outputs are in single precision. A network whose parameters have another float type converts them.
pub trait Network: Module + ModuleDisplay + Sync {
    /// The condition of a batch, one row per sample.
    type Condition: Condition;
    /// The contents of the network's `config.json`.
    type Config: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync;

    /// The differences between parameter paths and the keys of a weight file.
    const KEYS: KeyMap;

    /// Whether height and width of a sample may be odd at a level that halves them. As in diffusers, an up block then
    /// takes its size from the skip of the down block.
    const HALVES_ODD: bool = false;

    /// Checks that this implementation supports every option.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`], which names the first option that is not supported.
    fn validate(config: &Self::Config) -> Result<(), Error>;

    /// Makes a network with random initial parameters.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`], which names the first option that is not supported.
    fn init(config: &Self::Config, device: &Device) -> Result<Self, Error>;

    /// Sizes of a network of this configuration that other parts of a model have to match.
    fn sizes(config: &Self::Config) -> Sizes;

    /// The network with another guidance scale, for a network that takes the scale as an input
    /// ([`Sizes::told_guidance`]). Any other network is returned unchanged.
    fn with_guidance(self, scale: f64) -> Self {
        let _ = scale;
        self
    }

    /// The network with blocks that a backward pass recomputes, so that their activations need not be kept (gradient
    /// checkpointing). The gradients are the same bit for bit, except those of the time embedding's layers, which are
    /// summed in another order.
    fn recomputing(self) -> Self {
        self
    }

    /// The network with computations in another float type than that of its parameters ("mixed precision", Micikevicius
    /// et al. 2018). Each layer converts its parameters for the call, and the gradients have the type of the
    /// parameters. Normalisations, softmax, the time embedding and the critic's head stay in single precision.
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

    /// The costs of the network's parts for one sample of `[height, width]`. The parameters need not be initialised.
    fn costs(&self, side: [usize; 2]) -> Costs;

    /// Runs the first half of the network only. The result is the output of the middle block,
    /// `[batch, channels, height / 2^k, width / 2^k]`, which is the input of a critic.
    ///
    /// # Shapes
    ///
    /// As [`Self::forward`].
    fn encode(&self, x: Tensor<4>, t: Tensor<1>, condition: &Self::Condition) -> Tensor<4>;

    /// Makes a network with the weights of a file.
    ///
    /// # Errors
    ///
    /// As [`Self::init`], and when the file's tensors do not fit the network.
    fn from_tensors(config: &Self::Config, file: &Tensors, device: &Device) -> Result<Self, Error> {
        Ok(dmd_weights::load(Self::init(config, device)?, file, &Self::KEYS)?)
    }

    /// As [`Self::from_tensors`], but the parameters are frozen and converted to `dtype`.
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

    /// Writes a diffusers folder: first the weights, then `config.json`. A folder with `config.json` is therefore
    /// complete.
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

/// Sizes of a network that other parts of a model have to match. They follow from the configuration alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Channels of `x_t`.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Height and width of the samples that the network was trained on.
    pub sample_size: usize,
    /// Height of a sample divided by the height of the bottleneck.
    pub downsampling: usize,
    /// Width of the text features, for a network that attends to them.
    pub context_width: Option<usize>,
    /// Number of classes; 0 for a network without classes.
    pub classes: usize,
    /// Whether the network takes the guidance scale as an input, as latent consistency models do.
    pub told_guidance: bool,
    /// Channels of the bottleneck.
    pub bottleneck_channels: usize,
    /// Number of groups of every group normalisation.
    pub norm_num_groups: usize,
}

impl Sizes {
    /// Shape of a sample, `[channels, height, width]`.
    pub fn sample(&self) -> [usize; 3] {
        [self.in_channels, self.sample_size, self.sample_size]
    }

    /// Makes a critic's head for the network's bottleneck, with random initial parameters.
    ///
    /// # Errors
    ///
    /// [`Error::NoCritic`] when the bottleneck is too small, or has an odd side.
    pub fn critic(&self, device: &Device) -> Result<Discriminator, Error> {
        let side = self.sample_size / self.downsampling;
        if side < 2 || !side.is_multiple_of(2) {
            return Err(Error::NoCritic { side });
        }
        Ok(Discriminator::new(self.bottleneck_channels, side, self.norm_num_groups, device))
    }
}
