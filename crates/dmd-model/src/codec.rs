//! Converts samples to pictures and back.

use std::path::Path;

use burn::tensor::{Device, FloatDType, Tensor};
use dmd_kernels::device::computes_in;
use dmd_unet::{Autoencoder, AutoencoderConfig, Posterior, TinyAutoencoder, TinyAutoencoderConfig};

use crate::Error;

/// Number of latents per side from which pictures are encoded and decoded one at a time. A batch of large pictures is
/// no faster than single pictures, and its memory grows with its size.
const LARGE: usize = 32;

/// Minimum side of a tile, in latents.
const MIN_TILE: usize = 16;

/// Converts a model's samples to pictures and pictures to samples.
#[derive(Debug, Clone)]
pub struct Codec {
    network: Network,
    factor: usize,
    channels: usize,
    /// The float type of the network. Pictures and samples outside the network are in single precision.
    dtype: FloatDType,
}

#[derive(Debug, Clone)]
enum Network {
    Full {
        autoencoder: Box<Autoencoder>,
        tile: Option<usize>,
    },
    Tiny(Box<TinyAutoencoder>),
    /// Samples are pictures.
    Identity,
}

impl Codec {
    /// The codec of a full autoencoder.
    pub fn full(autoencoder: Autoencoder, config: &AutoencoderConfig) -> Self {
        Self {
            network: Network::Full { autoencoder: Box::new(autoencoder), tile: None },
            factor: config.downsampling(),
            channels: config.latent_channels,
            dtype: FloatDType::F32,
        }
    }

    /// Reads a tiny autoencoder (TAESD) from its folder.
    pub(crate) fn tiny(folder: &Path, device: &Device) -> Result<Self, Error> {
        let (autoencoder, config) = TinyAutoencoder::from_dir(folder, device)?;
        Ok(Self::of_tiny(autoencoder, &config))
    }

    fn of_tiny(autoencoder: TinyAutoencoder, config: &TinyAutoencoderConfig) -> Self {
        Self {
            network: Network::Tiny(Box::new(autoencoder)),
            factor: config.downsampling(),
            channels: config.latent_channels,
            dtype: FloatDType::F32,
        }
    }

    /// The codec for samples that are themselves pictures, with `channels` channels.
    pub fn identity(channels: usize) -> Self {
        Self { network: Network::Identity, factor: 1, channels, dtype: FloatDType::F32 }
    }

    /// The same codec, but it works in overlapping tiles of `side` × `side` latents, which needs the memory of one tile
    /// (see [`Autoencoder::decode_tiled`]). A tiny autoencoder and the identity need no tiles and ignore this.
    ///
    /// # Errors
    ///
    /// [`Error::Tile`] when the tiles are too small to overlap.
    pub fn with_tiles(self, side: usize) -> Result<Self, Error> {
        if side < MIN_TILE {
            return Err(Error::Tile { side, min: MIN_TILE });
        }
        Ok(match self.network {
            Network::Full { autoencoder, .. } => {
                Self { network: Network::Full { autoencoder, tile: Some(side) }, ..self }
            }
            _ => self,
        })
    }

    /// The same codec, frozen, with its network in another float type.
    pub fn in_precision(self, dtype: FloatDType) -> Self {
        if dtype == self.dtype {
            return self;
        }
        let network = match self.network {
            Network::Full { autoencoder, tile } => {
                Network::Full { autoencoder: Box::new(dmd_weights::cast(*autoencoder, dtype)), tile }
            }
            Network::Tiny(autoencoder) => Network::Tiny(Box::new(dmd_weights::cast(*autoencoder, dtype))),
            Network::Identity => return self,
        };
        Self { network, dtype, ..self }
    }

    /// A tensor in the float type that the network computes in.
    fn in_its_type(&self, x: Tensor<4>) -> Tensor<4> {
        let dtype = computes_in(&x.device(), self.dtype.into());
        if x.dtype() == dtype { x } else { x.cast(dtype) }
    }

    /// Pixels per value of a sample, in each direction.
    pub fn factor(&self) -> usize {
        self.factor
    }

    /// Channels of a sample.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Decodes samples to pictures, `[batch, 3 or 1, height, width]` in [−1, 1]. Gradients flow through.
    pub fn decode(&self, x0: Tensor<4>) -> Tensor<4> {
        one_by_one(x0, LARGE, |x0| {
            let x0 = self.in_its_type(x0);
            let pictures = match &self.network {
                Network::Full { autoencoder, tile: None } => autoencoder.decode(x0),
                Network::Full { autoencoder, tile: Some(tile) } => autoencoder.decode_tiled(x0, *tile),
                Network::Tiny(autoencoder) => autoencoder.decode(x0),
                Network::Identity => x0,
            };
            pictures.cast(FloatDType::F32)
        })
    }

    /// Encodes pictures, `[batch, 3, height, width]` in [−1, 1], to samples. A full autoencoder gives a distribution,
    /// from which one sample is drawn; `eps` provides the unit noise of the given shape for this.
    pub fn encode(&self, pictures: Tensor<4>, eps: impl FnOnce([usize; 4]) -> Tensor<4>) -> Tensor<4> {
        self.encode_with(pictures, |posterior| {
            let shape = posterior.mean.dims();
            posterior.sample(self.in_its_type(eps(shape)))
        })
    }

    /// Encodes pictures, `[batch, 3, height, width]` in [−1, 1], to the most likely samples.
    pub fn encode_mode(&self, pictures: Tensor<4>) -> Tensor<4> {
        one_by_one(pictures, LARGE * self.factor, |pictures| {
            self.encode_with(pictures, |posterior| posterior.mode())
        })
    }

    /// Encodes pictures to samples. `pick` takes a sample from the distribution that a full autoencoder gives.
    fn encode_with(&self, pictures: Tensor<4>, pick: impl FnOnce(Posterior) -> Tensor<4>) -> Tensor<4> {
        let pictures = self.in_its_type(pictures);
        let samples = match &self.network {
            Network::Full { autoencoder, tile: None } => pick(autoencoder.encode(pictures)),
            Network::Full { autoencoder, tile: Some(tile) } => {
                pick(autoencoder.encode_tiled(pictures, *tile))
            }
            Network::Tiny(autoencoder) => autoencoder.encode(pictures),
            Network::Identity => pictures.narrow(1, 0, self.channels),
        };
        samples.cast(FloatDType::F32)
    }
}

/// Applies a network to a batch. If the larger side has at least `large` values, the network gets one element at a
/// time.
fn one_by_one(batch: Tensor<4>, large: usize, network: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    let [count, _, height, width] = batch.dims();
    if count == 1 || height.max(width) < large {
        return network(batch);
    }
    Tensor::cat((0..count).map(|i| network(batch.clone().narrow(0, i, 1))).collect(), 0)
}
