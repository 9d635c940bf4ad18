//! The gradients of a 3×3 convolution's weight and bias: of each pair of channels the products of the output's gradient with nine
//! shifted views of the input, summed over all pixels.

use burn::backend::flex::FlexTensor;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::convolution::padded;
use super::disjoint::Disjoint;
use super::instructions::arch;
use super::scratch::Scratch;
use super::tensors::{dims, tensor, values};

/// Outputs whose sums of three shifted views fill the registers of AVX-512, and of AVX2.
const MOST: usize = 8;
const NARROW: usize = 4;
/// Pixels that are summed at a time: those of [`MOST`] outputs and an input stay in a core's first cache.
const PIXELS: usize = 1024;
/// Inputs of a job at most: their pixels stay in a core's second cache.
const INPUTS: usize = 64;

/// The gradients of `weight` and `bias`, given contiguous inputs and the output's gradient.
pub(super) fn gradients(x: &FlexTensor, grad: &FlexTensor) -> (FlexTensor, FlexTensor) {
    let ([batch, inputs, height, width], [_, outputs, ..]): ([usize; 4], [usize; 4]) = (dims(x), dims(grad));
    let (pitch, area) = (width + 2, height * width);
    let plane = (height + 2) * pitch;
    let len = batch * plane;
    let mut weight = vec![0.0_f32; outputs * inputs * 9];
    let mut of_bias = vec![0.0_f32; outputs];
    if inputs * outputs * area * batch > 0 {
        // Channel by channel, the samples behind each other: `[inputs, batch · plane]` with room for the shifts.
        let stride = len + 2 * pitch + 2;
        let mut wide = Scratch::new(inputs * stride);
        let source = values(x);
        wide.par_chunks_mut(stride).enumerate().for_each(|(c, out)| {
            let (planes, room) = out.split_at_mut(len);
            for (sample, out) in planes.chunks_exact_mut(plane).enumerate() {
                padded(&source[(sample * inputs + c) * area..][..area], out, [height, width]);
            }
            room.fill(0.0);
        });
        // The output's gradient on the same grid, zero where there is no output.
        let mut spread = Scratch::new(outputs * len);
        let source = values(grad);
        spread.par_chunks_mut(len).zip(of_bias.par_iter_mut()).enumerate().for_each(|(o, (out, sum))| {
            let mut total = 0.0_f64;
            out.fill(0.0);
            for (sample, out) in out.chunks_exact_mut(plane).enumerate() {
                let grad = &source[(sample * outputs + o) * area..][..area];
                total += grad.iter().map(|v| f64::from(*v)).sum::<f64>();
                for (row, out) in grad.chunks_exact(width).zip(out.chunks_exact_mut(pitch)) {
                    out[..width].copy_from_slice(row);
                }
            }
            *sum = total as f32;
        });
        let (eights, groups) = (outputs.div_ceil(MOST), inputs.div_ceil(INPUTS));
        let places = Disjoint::new(&mut weight);
        (0..eights * groups).into_par_iter().for_each(|job| {
            let (eight, group) = (job % eights, job / eights);
            let outputs = eight * MOST..outputs.min((eight + 1) * MOST);
            let inputs = [group * INPUTS, inputs.min((group + 1) * INPUTS), inputs];
            arch().dispatch(Sums {
                wide: &wide,
                stride,
                spread: &spread,
                len,
                pitch,
                outputs,
                inputs,
                out: &places,
            });
        });
    }
    (tensor(weight, [outputs, inputs, 3, 3]), tensor(of_bias, [outputs]))
}

/// The sums of some outputs and inputs.
struct Sums<'a> {
    /// Inputs on the padded grid, `stride` floats each.
    wide: &'a [f32],
    stride: usize,
    /// Outputs' gradients on it, `len` floats each.
    spread: &'a [f32],
    len: usize,
    /// Floats of a row of the grid.
    pitch: usize,
    outputs: std::ops::Range<usize>,
    /// From, to, and of how many.
    inputs: [usize; 3],
    /// `[outputs, inputs, 3, 3]`.
    out: &'a Disjoint<'a>,
}

impl WithSimd for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for first in (0..self.len).step_by(PIXELS) {
            let count = PIXELS.min(self.len - first);
            let mut output = self.outputs.start;
            while output < self.outputs.end {
                let left = self.outputs.end - output;
                output += match S::F32_LANES {
                    16 if left >= MOST => self.rows::<S, MOST>(simd, output, first, count),
                    _ if left >= NARROW => self.rows::<S, NARROW>(simd, output, first, count),
                    _ => self.rows::<S, 1>(simd, output, first, count),
                };
            }
        }
    }
}

impl Sums<'_> {
    /// Adds what `count` pixels, from `first` on, give for `R` outputs, and returns `R`.
    #[expect(unsafe_code, reason = "each job has outputs and inputs of its own, see `Disjoint`")]
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&self, simd: S, output: usize, first: usize, count: usize) -> usize {
        let grads: [&[f32]; R] =
            std::array::from_fn(|r| &self.spread[(output + r) * self.len + first..][..count]);
        let [from, to, inputs] = self.inputs;
        for input in from..to {
            for row in 0..3 {
                let x = &self.wide[input * self.stride + first + row * self.pitch..][..count + 2];
                let sums = nine::<S, R>(simd, grads, x);
                for (r, sums) in sums.into_iter().enumerate() {
                    let at = ((output + r) * inputs + input) * 9 + 3 * row;
                    // SAFETY: places of this job's outputs and inputs.
                    let out = unsafe { self.out.part(at, 3) };
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out += sum;
                    }
                }
            }
        }
        R
    }
}

/// The sums of `R` rows with three shifted views of `x`.
#[inline(always)]
fn nine<S: Simd, const R: usize>(simd: S, rows: [&[f32]; R], x: &[f32]) -> [[f32; 3]; R] {
    let count = rows[0].len();
    let whole = count / S::F32_LANES;
    let mut sums = [[simd.splat_f32s(0.0); 3]; R];
    let vectors: [&[S::f32s]; R] = std::array::from_fn(|r| &S::as_simd_f32s(rows[r]).0[..whole]);
    let shifted: [&[S::f32s]; 3] = std::array::from_fn(|k| &S::as_simd_f32s(&x[k..]).0[..whole]);
    for i in 0..whole {
        let views: [S::f32s; 3] = [shifted[0][i], shifted[1][i], shifted[2][i]];
        for (sums, row) in sums.iter_mut().zip(vectors) {
            let row = row[i];
            for (sum, view) in sums.iter_mut().zip(views) {
                *sum = simd.mul_add_e_f32s(row, view, *sum);
            }
        }
    }
    let mut found = [[0.0; 3]; R];
    for ((found, sums), row) in found.iter_mut().zip(sums).zip(rows) {
        for (k, (found, sum)) in found.iter_mut().zip(sums).enumerate() {
            *found = simd.reduce_sum_f32s(sum);
            for (i, value) in row.iter().enumerate().skip(whole * S::F32_LANES) {
                *found += value * x[i + k];
            }
        }
    }
    found
}
