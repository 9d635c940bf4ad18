use std::ops::RangeInclusive;

use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Every random number of the project: a ChaCha8 stream on the host, so that the numbers are the
/// same on every backend and a run can be stopped and resumed at a position of the stream.
#[derive(Debug, Clone)]
pub struct Noise {
    rng: ChaCha8Rng,
}

impl Noise {
    /// The stream of a seed.
    pub fn from_seed(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// An independent stream of the same seed for one purpose (`"data"`, `"draw"`, ..), so that
    /// one more draw for one purpose never shifts another.
    pub fn stream(seed: u64, purpose: &str) -> Self {
        let mut noise = Self::from_seed(seed);
        // FNV-1a: a fixed, platform-independent label → stream number.
        let label = purpose.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        noise.rng.set_stream(label);
        noise
    }

    /// How many 32-bit words have been drawn: all that is needed to resume with [`Self::seek`].
    pub fn position(&self) -> u128 {
        self.rng.get_word_pos()
    }

    /// Moves the stream to a [`Self::position`].
    pub fn seek(&mut self, position: u128) {
        self.rng.set_word_pos(position);
    }

    /// A number in `[0, 1)` with 53 random bits.
    fn unit(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// `count` independent standard normal numbers (Box–Muller).
    pub fn normals(&mut self, count: usize) -> Vec<f64> {
        let mut values = Vec::with_capacity(count + 1);
        while values.len() < count {
            let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
            let angle = std::f64::consts::TAU * self.unit();
            values.push(radius * angle.cos());
            values.push(radius * angle.sin());
        }
        values.truncate(count);
        values
    }

    /// Unit Gaussian noise of a shape, in f32.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], device: &Device) -> Tensor<D> {
        let values: Vec<f32> = self.normals(shape.iter().product()).into_iter().map(|v| v as f32).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    /// `count` numbers, uniform over a range.
    pub fn uniform(&mut self, range: RangeInclusive<f64>, count: usize) -> Vec<f64> {
        let (low, high) = range.into_inner();
        (0..count).map(|_| low + (high - low) * self.unit()).collect()
    }

    /// A whole number in `0..bound`.
    ///
    /// # Panics
    ///
    /// If `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "cannot draw a whole number below 0");
        // The bias of this product is below bound / 2⁶⁴.
        ((u128::from(self.rng.next_u64()) * bound as u128) >> 64) as usize
    }

    /// `count` whole numbers, uniform over a range with both ends.
    pub fn integers(&mut self, range: RangeInclusive<usize>, count: usize) -> Vec<usize> {
        let (low, high) = range.into_inner();
        (0..count).map(|_| low + self.below(high - low + 1)).collect()
    }
}
