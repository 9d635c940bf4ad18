use std::ops::RangeInclusive;

use burn::tensor::{Device, Tensor, TensorData};

use crate::Noise;

/// Draws the times of a training step.
#[derive(Debug, Clone, PartialEq)]
pub enum TimeSampler {
    /// Whole timesteps, uniform, both ends included. DMD's matching term: 20 to 980 of 1000; a
    /// denoising loss: 0 to 999.
    Timesteps(RangeInclusive<usize>),
    /// Uniform over the entries of a grid of sigmas (EDM).
    Grid(Vec<f64>),
}

impl TimeSampler {
    /// One time per sample, `[batch]`.
    pub fn draw(&self, batch: usize, noise: &mut Noise, device: &Device) -> Tensor<1> {
        Tensor::from_data(TensorData::new(self.numbers(batch, noise), [batch]), device)
    }

    /// Moves `noise` on as [`Self::draw`] does.
    pub fn skip(&self, batch: usize, noise: &mut Noise) {
        self.numbers(batch, noise);
    }

    fn numbers(&self, batch: usize, noise: &mut Noise) -> Vec<f32> {
        match self {
            Self::Timesteps(range) => {
                let drawn = noise.integers(range.clone(), batch);
                drawn.into_iter().map(|t| t as f32).collect()
            }
            Self::Grid(sigmas) => (0..batch).map(|_| sigmas[noise.below(sigmas.len())] as f32).collect(),
        }
    }
}
