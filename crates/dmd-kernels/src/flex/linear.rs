//! [`linear`](crate::linear()) for the flex backend, for a weight that lies as checkpoints have it, `[output, input]`, or as
//! burn makes it: few rows by products of rows with rows, nothing packed and the weight read once; more by [`product`].

use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
#[cfg(target_arch = "x86_64")]
use pulp::NullaryFnOnce;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::disjoint::Disjoint;
#[cfg(target_arch = "x86_64")]
use super::instructions::Pairs;
use super::instructions::{Arithmetic, Single, arch};
use super::products::{Bias, DEEP, Right, product};
use super::scratch::Scratch;
use super::stored::{Stored, is_read};
use super::tensors::{dims, is_single, tensor, unwritten, values};

/// A linear layer as an operation of a backend. It is not differentiable: training keeps burn's own.
#[backend_extension(Flex)]
pub trait LinearOps: Backend {
    /// `x · weight + bias` of `x: [rows, input]`, `weight: [input, output]` and `bias: [output]` or nothing, `[0]`.
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// Rows from which on packing the weight pays.
const FEW: usize = 160;
/// Inputs from which on few rows are multiplied so. Below, the bits of a row do not depend on how many rows there are.
const FEW_INPUTS: usize = DEEP;
/// Outputs that a thread takes at a time.
const CHUNK: usize = 24;
/// Rows and outputs whose sums are in registers together: 24, with ten vectors of operands.
const ROWS: usize = 4;
const OUTPUTS: usize = 6;

/// `x · weight + bias`, where the fast body serves it: single precision on flex, not tracked, and not one row of many inputs.
pub(crate) fn linear(x: &Tensor<2>, weight: &Tensor<2>, bias: Option<&Tensor<1>>) -> Option<Tensor<2>> {
    let [rows, inputs] = x.dims();
    let worth = if inputs < FEW_INPUTS { inputs >= 16 } else { rows > 1 };
    (worth && is_served_with(x, weight, bias)).then(|| {
        let bias = bias.cloned().unwrap_or_else(|| Tensor::empty([0], &x.device()));
        let [x, weight] = [x, weight].map(|x| x.clone().into_dispatch());
        Tensor::from_dispatch(Dispatch::linear(x, weight, bias.into_dispatch()))
    })
}

/// Whether `x` is in single precision on flex, the weight in a type that is read, and nothing tracked.
pub(super) fn is_served_with<const D: usize, const E: usize>(
    x: &Tensor<D>,
    weight: &Tensor<E>,
    bias: Option<&Tensor<1>>,
) -> bool {
    let tracked = x.is_autodiff() || weight.is_autodiff() || bias.is_some_and(Tensor::is_autodiff);
    is_read(weight.dtype()) && !tracked && is_single(x)
}

impl LinearOps for Flex {
    fn linear(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let (x, bias) = (x.to_contiguous(), bias.to_contiguous());
        let ([rows, depth], [_, columns]): ([usize; 2], [usize; 2]) = (dims(&x), dims(&weight));
        let turned = !weight.layout().is_contiguous();
        // A transposed view turned back, for nothing.
        let weight = if turned { Flex::float_transpose(weight) } else { weight }.to_contiguous();
        let mut out = unwritten(rows * columns);
        let (x, weight, bias) = (values(&x), Stored::of(&weight), values(&bias));
        let few = turned && rows <= FEW && depth >= FEW_INPUTS;
        #[cfg(target_arch = "x86_64")]
        if few
            && let Some(pairs) = Pairs::of([weight, weight])
            && let Some(weight) = weight.stored_pairs(depth)
            && depth.is_multiple_of(32)
        {
            let (x, shared) = (Stored::Single(x).pairs(pairs, depth), Disjoint::new(&mut out));
            let (x, inputs, places) = (&*x, depth / 2, &shared);
            weight.par_chunks(CHUNK * inputs).enumerate().for_each(|(chunk, weight)| {
                let first = chunk * CHUNK;
                let columns = Columns { x, weight, bias, inputs, first, outputs: columns, out: places };
                pairs.vectorize(pairs.simd(), ColumnsOfPairs { columns, pairs });
            });
            return tensor(out, [rows, columns]);
        }
        if few {
            let shared = Disjoint::new(&mut out);
            let size = CHUNK * depth;
            let room = || Scratch::new(if matches!(weight, Stored::Single(_)) { 0 } else { size });
            let chunks = (0..weight.len().div_ceil(size)).into_par_iter();
            chunks.for_each_init(room, |room, chunk| {
                let (first, out) = (chunk * CHUNK, &shared);
                let weight = weight.part(chunk * size..weight.len().min((chunk + 1) * size)).read_in(room);
                arch().dispatch(Columns { x, weight, bias, inputs: depth, first, outputs: columns, out });
            });
        } else {
            let bias = if bias.is_empty() { Bias::None } else { Bias::Columns(bias) };
            product(Stored::Single(x), Right { values: weight, depth, columns, turned }, bias, &mut out);
        }
        tensor(out, [rows, columns])
    }
}

/// Some outputs of all rows.
struct Columns<'a> {
    /// Rows of `inputs` floats, or of as many pairs.
    x: &'a [f32],
    weight: &'a [f32],
    /// One of each output, or none at all.
    bias: &'a [f32],
    inputs: usize,
    /// The first of them, of how many.
    first: usize,
    outputs: usize,
    out: &'a Disjoint<'a>,
}

impl WithSimd for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        self.run(s, Single);
    }
}

/// Columns of pairs of bf16, whole vectors of them.
#[cfg(target_arch = "x86_64")]
struct ColumnsOfPairs<'a> {
    columns: Columns<'a>,
    pairs: Pairs,
}

#[cfg(target_arch = "x86_64")]
impl NullaryFnOnce for ColumnsOfPairs<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.columns.run(self.pairs.simd(), self.pairs);
    }
}

impl Columns<'_> {
    #[inline(always)]
    fn run<S: Simd, A: Arithmetic<S>>(self, s: S, by: A) {
        let s = (s, by);
        for (six, weight) in self.weight.chunks(OUTPUTS * self.inputs).enumerate() {
            for (four, x) in self.x.chunks(ROWS * self.inputs).enumerate() {
                let place = (four * ROWS, self.first + six * OUTPUTS);
                match (x.len() / self.inputs, weight.len() / self.inputs) {
                    (ROWS, OUTPUTS) => self.block::<S, A, ROWS, OUTPUTS>(s, x, weight, place),
                    (_, OUTPUTS) => {
                        for (i, x) in x.chunks(self.inputs).enumerate() {
                            self.block::<S, A, 1, OUTPUTS>(s, x, weight, (place.0 + i, place.1));
                        }
                    }
                    _ => {
                        for (o, weight) in weight.chunks(self.inputs).enumerate() {
                            for (i, x) in x.chunks(self.inputs).enumerate() {
                                self.block::<S, A, 1, 1>(s, x, weight, (place.0 + i, place.1 + o));
                            }
                        }
                    }
                }
            }
        }
    }

    #[expect(unsafe_code, reason = "each thread has outputs of its own, see `Disjoint`")]
    #[inline(always)]
    fn block<S: Simd, A: Arithmetic<S>, const R: usize, const O: usize>(
        &self,
        (s, by): (S, A),
        x: &[f32],
        weight: &[f32],
        (row, output): (usize, usize),
    ) {
        let row_of = |i: usize| i * self.inputs..(i + 1) * self.inputs;
        let x: [(&[S::f32s], &[f32]); R] = std::array::from_fn(|i| S::as_simd_f32s(&x[row_of(i)]));
        let weight: [(&[S::f32s], &[f32]); O] = std::array::from_fn(|o| S::as_simd_f32s(&weight[row_of(o)]));
        let mut sums = [[s.splat_f32s(0.0); O]; R];
        for k in 0..x[0].0.len() {
            let weights: [S::f32s; O] = std::array::from_fn(|o| weight[o].0[k]);
            for (sums, x) in sums.iter_mut().zip(&x) {
                let value = x.0[k];
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = by.add(s, value, weight, *sum);
                }
            }
        }
        for (i, (sums, x)) in sums.into_iter().zip(&x).enumerate() {
            // SAFETY: rows of this thread's outputs.
            let out = unsafe { self.out.part((row + i) * self.outputs + output, O) };
            for (o, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
                let rest: f32 = x.1.iter().zip(weight[o].1).map(|(a, b)| a * b).sum();
                let bias = self.bias.get(output + o).copied().unwrap_or(0.0);
                *out = s.reduce_sum_f32s(sum) + rest + bias;
            }
        }
    }
}
