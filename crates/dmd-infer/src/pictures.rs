//! Latents to pictures and back, by the full autoencoder or the tiny one.

use std::path::Path;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use dmd_unet::{Autoencoder, TinyAutoencoder};
use image::RgbImage;

use crate::Error;

/// Latents per side from which on pictures are decoded one at a time: a batch of large pictures is
/// no faster than its singles, and needs as many times the memory.
const LARGE: usize = 32;

#[derive(Debug, Clone)]
pub(crate) struct PictureCoder {
    network: Network,
    /// Pixels per latent.
    pub(crate) factor: usize,
    /// The float type of the network; pictures and latents outside it are in single precision.
    dtype: FloatDType,
}

#[derive(Debug, Clone)]
enum Network {
    Full { autoencoder: Box<Autoencoder>, tile: Option<usize> },
    Tiny(Box<TinyAutoencoder>),
}

impl PictureCoder {
    pub(crate) fn full(folder: &Path, tile: Option<usize>, device: &Device) -> Result<Self, Error> {
        let (autoencoder, config) = Autoencoder::from_dir(folder, device)?;
        let network = Network::Full { autoencoder: Box::new(autoencoder), tile };
        Ok(Self { network, factor: config.downsampling(), dtype: FloatDType::F32 })
    }

    pub(crate) fn tiny(folder: &Path, device: &Device) -> Result<Self, Error> {
        let (autoencoder, config) = TinyAutoencoder::from_dir(folder, device)?;
        let network = Network::Tiny(Box::new(autoencoder));
        Ok(Self { network, factor: config.downsampling(), dtype: FloatDType::F32 })
    }

    /// The same coder with its network in another float type.
    pub(crate) fn in_precision(self, dtype: FloatDType) -> Self {
        let network = match self.network {
            Network::Full { autoencoder, tile } => {
                Network::Full { autoencoder: Box::new(dmd_weights::cast(*autoencoder, dtype)), tile }
            }
            Network::Tiny(autoencoder) => Network::Tiny(Box::new(dmd_weights::cast(*autoencoder, dtype))),
        };
        Self { network, dtype, ..self }
    }

    pub(crate) fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        let one = |latents: Tensor<4>| {
            let latents = latents.cast(self.dtype);
            let picture = match &self.network {
                Network::Full { autoencoder, tile: None } => autoencoder.decode(latents),
                Network::Full { autoencoder, tile: Some(tile) } => autoencoder.decode_tiled(latents, *tile),
                Network::Tiny(autoencoder) => autoencoder.decode(latents),
            };
            picture.cast(FloatDType::F32)
        };
        let [count, _, height, width] = latents.dims();
        if count == 1 || height.max(width) < LARGE {
            return one(latents);
        }
        Tensor::cat((0..count).map(|i| one(latents.clone().narrow(0, i, 1))).collect(), 0)
    }

    /// A latent of a picture's distribution; `eps` gives unit noise shaped like it where one is drawn
    /// from.
    pub(crate) fn encode(&self, image: Tensor<4>, eps: impl FnOnce([usize; 4]) -> Tensor<4>) -> Tensor<4> {
        let image = image.cast(self.dtype);
        let posterior = match &self.network {
            Network::Full { autoencoder, tile: None } => autoencoder.encode(image),
            Network::Full { autoencoder, tile: Some(tile) } => autoencoder.encode_tiled(image, *tile),
            Network::Tiny(autoencoder) => return autoencoder.encode(image).cast(FloatDType::F32),
        };
        let shape = posterior.mean.dims();
        posterior.sample(eps(shape).cast(self.dtype)).cast(FloatDType::F32)
    }
}

/// Pictures as `[batch, 3, height, width]` in [−1, 1].
///
/// # Panics
///
/// If the pictures differ in size.
pub fn from_rgb8(pictures: &[RgbImage], device: &Device) -> Tensor<4> {
    let (width, height) = pictures.first().map_or((0, 0), RgbImage::dimensions);
    let plane = (width * height) as usize;
    let mut values = vec![0.0_f32; pictures.len() * 3 * plane];
    for (picture, values) in pictures.iter().zip(values.chunks_mut(3 * plane.max(1))) {
        assert_eq!(picture.dimensions(), (width, height), "pictures of a batch have one size");
        for (i, pixel) in picture.pixels().enumerate() {
            for (channel, level) in pixel.0.iter().enumerate() {
                values[channel * plane + i] = f32::from(*level) / 127.5 - 1.0;
            }
        }
    }
    let shape = [pictures.len(), 3, height as usize, width as usize];
    Tensor::from_data(TensorData::new(values, shape), device)
}
