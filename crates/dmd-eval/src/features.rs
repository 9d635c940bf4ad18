//! Spaces that pictures are compared in.

use std::fmt::Debug;
use std::path::Path;

use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, activation::relu};
use dmd_core::Noise;
use dmd_model::pixels::from_rgb8;
use image::RgbImage;

use crate::Error;
use crate::inception::Inception;

/// The feature space `random-conv-v1`: three 3×3 convolutions of stride 2 (16, 32 and 32
/// channels), weights drawn once from a fixed seed with He's deviation, ReLU after each; the
/// features are the last layer averaged over each quarter of the picture, 128 numbers. Height and
/// width must be multiples of 16.
///
/// Random convolutions keep edges, colours and their places apart; unlike a distance on raw pixels
/// they do not reward blur.
#[derive(Debug)]
pub struct RandomConv {
    weights: Vec<Tensor<4>>,
    device: Device,
}

/// A feature space for pictures.
pub trait FeatureSpace {
    /// Its name, quoted with every distance.
    fn name(&self) -> &'static str;

    /// One row of features per picture.
    fn features(&self, pictures: &[RgbImage]) -> Vec<Vec<f64>>;
}

impl FeatureSpace for RandomConv {
    fn name(&self) -> &'static str {
        FEATURE_SPACE
    }

    fn features(&self, pictures: &[RgbImage]) -> Vec<Vec<f64>> {
        Self::features(self, pictures)
    }
}

/// [`Inception`] on a device: the space of published Fréchet distances.
#[derive(Debug)]
pub struct InceptionSpace {
    network: Inception,
    device: Device,
}

impl InceptionSpace {
    /// Reads the network's file (see [`Inception::from_file`]).
    ///
    /// # Errors
    ///
    /// When the file is missing, broken or of another network.
    pub fn from_file(path: &Path, device: &Device) -> Result<Self, Error> {
        Ok(Self { network: Inception::from_file(path, device)?, device: device.clone() })
    }
}

impl FeatureSpace for InceptionSpace {
    fn name(&self) -> &'static str {
        "Inception, 2048 features"
    }

    fn features(&self, pictures: &[RgbImage]) -> Vec<Vec<f64>> {
        let mut rows = Vec::with_capacity(pictures.len());
        for chunk in pictures.chunks(16) {
            let features = self.network.features((from_rgb8(chunk, &self.device) + 1.0) / 2.0);
            let [batch, width] = features.dims();
            let values: Vec<f64> = features.into_data().iter::<f64>().collect();
            debug_assert_eq!(values.len(), batch * width);
            rows.extend(values.chunks(width).map(<[f64]>::to_vec));
        }
        rows
    }
}

/// Name of [`RandomConv`]'s feature space, quoted with every distance.
pub const FEATURE_SPACE: &str = "random-conv-v1";

impl RandomConv {
    /// The network on a device.
    pub fn new(device: &Device) -> Self {
        let mut noise = Noise::stream(20_231_129, FEATURE_SPACE);
        let weights = [(3, 16), (16, 32), (32, 32)].map(|(input, output)| {
            let std = (2.0 / (9.0 * input as f64)).sqrt();
            noise.normal([output, input, 3, 3], device) * std
        });
        Self { weights: weights.to_vec(), device: device.clone() }
    }

    /// One row of 128 features per picture.
    pub fn features(&self, pictures: &[RgbImage]) -> Vec<Vec<f64>> {
        let mut rows = Vec::with_capacity(pictures.len());
        for chunk in pictures.chunks(64) {
            let mut x = from_rgb8(chunk, &self.device);
            for weight in &self.weights {
                let options = ConvOptions::new([2, 2], [1, 1], [1, 1], 1);
                x = relu(conv2d(x, weight.clone(), None, options));
            }
            let [batch, channels, height, width] = x.dims();
            let pooled = x.reshape([batch, channels, 2, height / 2, 2, width / 2]).mean_dims(&[3, 5]);
            let values: Vec<f64> = pooled.into_data().iter::<f64>().collect();
            rows.extend(values.chunks(values.len() / batch).map(<[f64]>::to_vec));
            debug_assert_eq!(rows.last().map(Vec::len), Some(4 * channels));
        }
        rows
    }
}
