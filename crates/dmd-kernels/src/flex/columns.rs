//! Convolutions of any kernel, stride and padding for the flex backend, by a product of matrices: what each pixel of the result sees
//! is written as a column ("im2col") but for a 1×1 convolution, whose pixels are used where they lie.

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::instructions::{Arithmetic, Pairs};
use super::linear::is_served_with;
use super::products::{Bias, Right, product};
#[cfg(target_arch = "x86_64")]
use super::products::{Together, product_of_pairs};
use super::scratch::Scratch;
use super::stored::Stored;
use super::tensors::{dims, tensor, unwritten, values};

/// A convolution over all channels, without dilation, as an operation of a backend. It is not differentiable: training keeps burn's own.
#[backend_extension(Flex)]
pub trait ColumnsOps: Backend {
    /// `[batch, output, height, width]` of `x: [batch, input, ..]`, `weight: [output, input, kernel, kernel]` and `bias: [output]` or
    /// nothing, `[0]`; `before` and `after` are the zeros above and left of the picture, and below and right of it.
    fn convolution_by_columns(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        stride: usize,
        before: usize,
        after: usize,
    ) -> FloatTensor<Self>;
}

/// The convolution, where the tensor is in single precision on flex and nothing is tracked.
pub(crate) fn convolution_by_columns(
    x: &Tensor<4>,
    weight: &Tensor<4>,
    bias: Option<&Tensor<1>>,
    stride: usize,
    [before, after]: [usize; 2],
) -> Option<Tensor<4>> {
    let fits = x.dims()[2..].iter().all(|side| side + before + after >= weight.dims()[2]);
    (fits && is_served_with(x, weight, bias)).then(|| {
        let bias = bias.cloned().unwrap_or_else(|| Tensor::empty([0], &x.device())).into_dispatch();
        let [x, weight] = [x, weight].map(|x| x.clone().into_dispatch());
        Tensor::from_dispatch(Dispatch::convolution_by_columns(x, weight, bias, stride, before, after))
    })
}

impl ColumnsOps for Flex {
    fn convolution_by_columns(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        stride: usize,
        before: usize,
        after: usize,
    ) -> FlexTensor {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let ([batch, channels, height, width], [outputs, _, kernel, _]): ([usize; 4], [usize; 4]) =
            (dims(&x), dims(&weight));
        let side = |length: usize| (length + before + after - kernel) / stride + 1;
        let picture = Picture { height, width, across: side(width), stride, before };
        let (down, across) = (side(height), side(width));
        let (pixels, area, depth) = (down * across, height * width, channels * kernel * kernel);
        let mut out = unwritten(batch * outputs * pixels);
        let (x, weight, bias) = (values(&x), Stored::of(&weight), values(&bias));
        let bias = if bias.is_empty() { Bias::None } else { Bias::Rows(bias) };
        let plain = kernel == 1 && stride == 1 && before + after == 0;
        #[cfg(target_arch = "x86_64")]
        if !plain && let Some(pairs) = Pairs::of([weight; 2]) {
            let mut columns = Scratch::new(depth.div_ceil(2) * pixels);
            for (sample, out) in out.chunks_mut((outputs * pixels).max(1)).enumerate() {
                let x = &x[sample * channels * area..][..channels * area];
                let rows = columns.par_chunks_mut(pixels.max(1)).with_min_len(16).enumerate();
                rows.for_each_init(
                    || vec![0.0; 2 * pixels],
                    |two, (row, out)| {
                        for (place, two) in (2 * row..).zip(two.chunks_exact_mut(pixels)) {
                            let (channel, place) = (place / (kernel * kernel), place % (kernel * kernel));
                            match x.get(channel * area..(channel + 1) * area) {
                                Some(x) => picture.seen(x, [place / kernel, place % kernel], two),
                                None => two.fill(0.0),
                            }
                        }
                        let (first, second) = two.split_at(pixels);
                        pairs.vectorize(pairs.simd(), Together { first, second, out });
                    },
                );
                product_of_pairs(pairs, (weight, depth), (&columns, pixels), bias, out);
            }
            return tensor(out, [batch, outputs, down, across]);
        }
        let mut columns = Scratch::new(if plain { 0 } else { depth * pixels });
        for (sample, out) in out.chunks_mut((outputs * pixels).max(1)).enumerate() {
            let x = &x[sample * channels * area..][..channels * area];
            if !plain {
                let rows = columns.par_chunks_mut(pixels).enumerate();
                rows.for_each(|(row, out)| {
                    let (channel, place) = (row / (kernel * kernel), row % (kernel * kernel));
                    picture.seen(&x[channel * area..][..area], [place / kernel, place % kernel], out);
                });
            }
            let values = Stored::Single(if plain { x } else { &columns });
            product(weight, Right { values, depth, columns: pixels, turned: false }, bias, out);
        }
        tensor(out, [batch, outputs, down, across])
    }
}

/// How a picture is looked at.
struct Picture {
    height: usize,
    width: usize,
    /// Pixels of a row of the result.
    across: usize,
    stride: usize,
    before: usize,
}

impl Picture {
    /// What all pixels of the result see at one place of the kernel.
    fn seen(&self, x: &[f32], [down, right]: [usize; 2], out: &mut [f32]) {
        for (row, out) in out.chunks_exact_mut(self.across).enumerate() {
            let y = (row * self.stride + down).wrapping_sub(self.before);
            if y >= self.height {
                out.fill(0.0);
                continue;
            }
            let x = &x[y * self.width..][..self.width];
            for (column, out) in out.iter_mut().enumerate() {
                let at = (column * self.stride + right).wrapping_sub(self.before);
                *out = x.get(at).copied().unwrap_or(0.0);
            }
        }
    }
}
