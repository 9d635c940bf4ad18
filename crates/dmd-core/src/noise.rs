use std::ops::RangeInclusive;

use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::torch_noise::{TorchCpu, TorchCuda};

/// Every random number of the project, drawn on the host, so that the numbers are the same on every
/// backend and a run can be stopped and resumed at a position of the stream: a ChaCha8 stream
/// ([`Self::from_seed`]), or one of PyTorch's two generators, for pictures by the seeds people know.
#[derive(Debug, Clone)]
pub struct Noise {
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    ChaCha(Box<ChaCha8Rng>),
    TorchCpu(Box<TorchCpu>),
    TorchCuda(TorchCuda),
}

impl Noise {
    /// The stream of a seed.
    pub fn from_seed(seed: u64) -> Self {
        Self { source: Source::ChaCha(Box::new(ChaCha8Rng::seed_from_u64(seed))) }
    }

    /// PyTorch's CPU generator after `torch.manual_seed(seed)`: [`Self::normal`] gives the numbers of
    /// `torch.randn` (f32) call by call, up to the last digits (PyTorch's vectorised logarithm and
    /// sine round differently by up to 2e-6). Of the seed, the low 32 bits count, as there.
    ///
    /// ```
    /// let drawn = dmd_core::Noise::torch_cpu(0).normals(3);
    /// assert!((drawn[0] - 1.5410).abs() < 1e-4 && (drawn[2] + 2.1788).abs() < 1e-4);
    /// ```
    pub fn torch_cpu(seed: u64) -> Self {
        Self { source: Source::TorchCpu(Box::new(TorchCpu::new(seed))) }
    }

    /// PyTorch's CUDA generator: the numbers of `torch.randn(.., device="cuda")` in f32, for tensors
    /// of no more values than the GPU has threads (221 184 on an A100), a latent's noise among them.
    ///
    /// ```
    /// let drawn = dmd_core::Noise::torch_cuda(0).normals(2);
    /// assert!((drawn[0] + 0.9247).abs() < 1e-4 && (drawn[1] + 0.4253).abs() < 1e-4);
    /// ```
    pub fn torch_cuda(seed: u64) -> Self {
        Self { source: Source::TorchCuda(TorchCuda::new(seed)) }
    }

    /// An independent stream of the same seed for one purpose (`"data"`, `"draw"`, ..), so that
    /// one more draw for one purpose never shifts another.
    pub fn stream(seed: u64, purpose: &str) -> Self {
        // FNV-1a: a fixed, platform-independent label → stream number.
        let label = purpose.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(label);
        Self { source: Source::ChaCha(Box::new(rng)) }
    }

    /// How far the stream has been drawn: all that is needed to resume with [`Self::seek`].
    pub fn position(&self) -> u128 {
        match &self.source {
            Source::ChaCha(rng) => rng.get_word_pos(),
            Source::TorchCpu(rng) => rng.position(),
            Source::TorchCuda(rng) => rng.position(),
        }
    }

    /// Moves the stream to a [`Self::position`].
    pub fn seek(&mut self, position: u128) {
        match &mut self.source {
            Source::ChaCha(rng) => rng.set_word_pos(position),
            Source::TorchCpu(rng) => rng.seek(position),
            Source::TorchCuda(rng) => rng.seek(position),
        }
    }

    fn next_u64(&mut self) -> u64 {
        match &mut self.source {
            Source::ChaCha(rng) => rng.next_u64(),
            Source::TorchCpu(rng) => rng.next_u64(),
            Source::TorchCuda(rng) => rng.next_u64(),
        }
    }

    /// A number in `[0, 1)` with 53 random bits.
    fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// `count` independent standard normal numbers (Box–Muller); for PyTorch's generators those of
    /// one call of `torch.randn(count)`.
    pub fn normals(&mut self, count: usize) -> Vec<f64> {
        match &mut self.source {
            Source::ChaCha(_) => {}
            Source::TorchCpu(rng) => return rng.normals(count).into_iter().map(f64::from).collect(),
            Source::TorchCuda(rng) => return rng.normals(count).into_iter().map(f64::from).collect(),
        }
        let mut values: Vec<f64> = (0..count.next_multiple_of(2)).map(|_| self.unit()).collect();
        for pairs in values.chunks_mut(16) {
            // Fixed lengths, so that the compiler makes vectors of them.
            let (mut u, mut v) = ([0.0; 8], [0.0; 8]);
            for (i, pair) in pairs.chunks_exact(2).enumerate() {
                (u[i], v[i]) = (pair[0], pair[1]);
            }
            for (u, v) in u.iter_mut().zip(&mut v) {
                [*u, *v] = box_muller(*u, *v);
            }
            for (i, pair) in pairs.chunks_exact_mut(2).enumerate() {
                (pair[0], pair[1]) = (u[i], v[i]);
            }
        }
        values.truncate(count);
        values
    }

    /// Moves on as [`Self::normals`] does, without computing the numbers: for who draws only a part of what several
    /// processes draw together.
    ///
    /// ```
    /// # use dmd_core::Noise;
    /// let (mut drawn, mut skipped) = (Noise::from_seed(1), Noise::from_seed(1));
    /// drawn.normals(5);
    /// skipped.skip_normals(5);
    /// assert_eq!(drawn.position(), skipped.position());
    /// ```
    pub fn skip_normals(&mut self, count: usize) {
        match &mut self.source {
            // Two words for each uniform number, and uniform numbers in pairs.
            Source::ChaCha(rng) => {
                rng.set_word_pos(rng.get_word_pos() + 2 * count.next_multiple_of(2) as u128);
            }
            Source::TorchCpu(_) | Source::TorchCuda(_) => drop(self.normals(count)),
        }
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
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// `count` whole numbers, uniform over a range with both ends.
    pub fn integers(&mut self, range: RangeInclusive<usize>, count: usize) -> Vec<usize> {
        let (low, high) = range.into_inner();
        (0..count).map(|_| low + self.below(high - low + 1)).collect()
    }
}

/// Two independent normal numbers of two uniform ones in `[0, 1)`. Logarithm, sine and cosine are series without
/// branches, good to 1e-15: faster than the system's, and the same bits on every platform.
#[inline(always)]
fn box_muller(u: f64, v: f64) -> [f64; 2] {
    let radius = (-2.0 * logarithm(1.0 - u)).sqrt();
    let [sine, cosine] = turn(v);
    [radius * cosine, radius * sine]
}

/// The natural logarithm of a number in `(0, 1]`.
#[inline(always)]
fn logarithm(x: f64) -> f64 {
    // x = m · 2^e with m in [√½, √2): the bits of √½ taken off, e lies in the exponent's place.
    const HALF_ROOT: u64 = std::f64::consts::FRAC_1_SQRT_2.to_bits();
    const MAGIC: f64 = 4_503_599_627_370_496.0; // 2⁵²: its last bits count ones
    let above = x.to_bits().wrapping_sub(HALF_ROOT).wrapping_add(1024 << 52) >> 52;
    let exponent = f64::from_bits(above | MAGIC.to_bits()) - MAGIC - 1024.0;
    let m = f64::from_bits(x.to_bits().wrapping_sub(above.wrapping_sub(1024) << 52));
    // ln m = 2 artanh((m − 1) / (m + 1))
    let s = (m - 1.0) / (m + 1.0);
    let t = s * s;
    let series = (0..=10).rev().fold(0.0, |sum, k| sum * t + 1.0 / f64::from(2 * k + 1));
    exponent * std::f64::consts::LN_2 + 2.0 * s * series
}

/// Sine and cosine of a share of a turn in `[0, 1)`.
#[inline(always)]
fn turn(v: f64) -> [f64; 2] {
    let quarters = (4.0 * v + 0.5) as i32;
    let y = std::f64::consts::TAU * (v - 0.25 * f64::from(quarters));
    let t = y * y;
    // Taylor's series of sin y / y and cos y, |y| ≤ π / 4: the next terms are below 1e-17.
    let sine = y * (1..=8).rev().fold(1.0, |sum, k| 1.0 - sum * (t * (1.0 / f64::from(2 * k * (2 * k + 1)))));
    let cosine = (1..=8).rev().fold(1.0, |sum, k| 1.0 - sum * (t * (1.0 / f64::from(2 * k * (2 * k - 1)))));
    let (a, b) = if quarters & 1 == 1 { (cosine, sine) } else { (sine, cosine) };
    [if quarters & 2 == 2 { -a } else { a }, if (quarters + 1) & 2 == 2 { -b } else { b }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_the_functions() {
        let mut noise = Noise::from_seed(1);
        let ends = [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0 - f64::EPSILON / 2.0];
        for v in (0..10_000).map(|_| noise.unit()).chain(ends) {
            let ([sine, cosine], angle) = (turn(v), std::f64::consts::TAU * v);
            // The system's functions round the angle of up to 2π first: 4e-16 of it.
            assert!((sine - angle.sin()).abs() < 2e-15 && (cosine - angle.cos()).abs() < 2e-15, "{v}");
            let x = 1.0 - v;
            assert!((logarithm(x) - x.ln()).abs() <= 1e-15 * (1.0 + x.ln().abs()), "{x}");
        }
        assert!((logarithm(1.0 / (1_u64 << 53) as f64) + 53.0 * std::f64::consts::LN_2).abs() < 1e-14);
    }
}
