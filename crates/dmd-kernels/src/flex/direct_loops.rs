//! A 3×3 convolution of stride 1 by direct multiplication: blocks of output channels and positions live in registers,
//! every input vector is loaded once for all of a block's channels, weights are read where they lie.

use pulp::{Simd, WithSimd};

use super::instructions::arch;

/// Output channels of a block: with [`WIDE`] vectors of positions they fill the registers of AVX-512.
pub(super) const BLOCK: usize = 6;
/// Vectors of positions per block where there are 32 registers, and where there are 16.
const WIDE: usize = 4;
const NARROW: usize = 2;
/// Floats that a row of vectors may read or write beyond its end.
pub(super) const SLACK: usize = WIDE * 16;

/// Where the weights of an output and an input channel lie: nine in a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct WeightLayout {
    /// Floats between output channels.
    pub(super) output: usize,
    /// Floats between input channels.
    pub(super) input: usize,
    /// Whether the nine are taken from the last to the first, as a gradient's are.
    pub(super) reversed: bool,
}

/// Input planes with zeros around, `pitch` floats to a row, `plane` to a channel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planes<'a> {
    pub(super) values: &'a [f32],
    pub(super) channels: usize,
    pub(super) plane: usize,
    pub(super) pitch: usize,
}

/// A run of output positions: where it starts in the padded planes, where in the output, how long it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) len: usize,
}

/// Some output channels over some runs of positions.
pub(super) struct Block<'a, 'b> {
    pub(super) x: Planes<'a>,
    /// The weights from the block's first output channel on.
    pub(super) weights: &'a [f32],
    pub(super) layout: WeightLayout,
    pub(super) runs: &'a [Run],
    /// An output per channel; a run writes up to [`SLACK`] floats beyond its end, where there is room for them.
    pub(super) outputs: &'b mut [&'a mut [f32]],
    /// A bias per channel.
    pub(super) bias: &'b [f32],
}

/// Runs a block with the processor's widest vectors.
pub(super) fn convolve(block: Block<'_, '_>) {
    arch().dispatch(block);
}

impl WithSimd for Block<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.outputs.len() {
            1 => self.rows::<S, 1>(simd),
            2 => self.rows::<S, 2>(simd),
            3 => self.rows::<S, 3>(simd),
            4 => self.rows::<S, 4>(simd),
            5 => self.rows::<S, 5>(simd),
            _ => self.rows::<S, BLOCK>(simd),
        }
    }
}

impl Block<'_, '_> {
    #[inline(always)]
    fn rows<S: Simd, const O: usize>(mut self, simd: S) {
        let lanes = S::F32_LANES;
        for run in self.runs {
            let mut at = 0;
            while lanes == 16 && at + WIDE * lanes <= run.len {
                self.vectors::<S, O, WIDE>(simd, run, at);
                at += WIDE * lanes;
            }
            while at + NARROW * lanes <= run.len {
                self.vectors::<S, O, NARROW>(simd, run, at);
                at += NARROW * lanes;
            }
            while at < run.len {
                self.vectors::<S, O, 1>(simd, run, at);
                at += lanes;
            }
        }
    }

    /// `O` channels of `V` vectors of positions.
    #[inline(always)]
    fn vectors<S: Simd, const O: usize, const V: usize>(&mut self, simd: S, run: &Run, at: usize) {
        let lanes = S::F32_LANES;
        let Planes { values, channels, plane, pitch } = self.x;
        let mut sums = [[simd.splat_f32s(0.0); V]; O];
        for (o, sums) in sums.iter_mut().enumerate() {
            *sums = [simd.splat_f32s(self.bias[o]); V];
        }
        let offsets: [usize; 9] = std::array::from_fn(|k| (k / 3) * pitch + k % 3);
        for c in 0..channels {
            let start = c * plane + run.from + at;
            let nines: [&[f32]; O] = std::array::from_fn(|o| {
                let first = o * self.layout.output + c * self.layout.input;
                &self.weights[first..first + 9]
            });
            for (k, offset) in offsets.iter().enumerate() {
                let place = if self.layout.reversed { 8 - k } else { k };
                let (vectors, _) = S::as_simd_f32s(&values[start + offset..start + offset + V * lanes]);
                let vectors: [S::f32s; V] = std::array::from_fn(|v| vectors[v]);
                for (sums, nine) in sums.iter_mut().zip(nines) {
                    let weight = simd.splat_f32s(nine[place]);
                    for (sum, vector) in sums.iter_mut().zip(vectors) {
                        *sum = simd.mul_add_e_f32s(vector, weight, *sum);
                    }
                }
            }
        }
        let to = run.to + at;
        for (output, sums) in self.outputs.iter_mut().zip(sums) {
            let (vectors, _) = S::as_mut_simd_f32s(&mut output[to..to + V * lanes]);
            for (vector, sum) in vectors.iter_mut().zip(sums) {
                *vector = sum;
            }
        }
    }
}
