//! The gradients of a 3×3 convolution's weight and bias: nine products of matrices over shifted views of the input.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::Slice;
use rayon::prelude::*;

use super::convolution::padded;
use super::tensors::{dims, tensor, values};

/// The gradients of `weight` and `bias`, given contiguous inputs and the output's gradient.
pub(super) fn gradients(x: &FlexTensor, grad: &FlexTensor) -> (FlexTensor, FlexTensor) {
    let ([batch, inputs, height, width], [_, outputs, ..]): ([usize; 4], [usize; 4]) = (dims(x), dims(grad));
    let (pitch, area) = (width + 2, height * width);
    let plane = (height + 2) * pitch;
    let len = batch * plane;
    let shift = 2 * pitch + 2;
    // Channel by channel, the samples behind each other: `[inputs, batch · plane]` with room for the shifts.
    let mut wide = vec![0.0_f32; inputs * (len + shift)];
    let source = values(x);
    wide.par_chunks_mut(len + shift).enumerate().for_each(|(c, out)| {
        for (sample, out) in out[..len].chunks_exact_mut(plane).enumerate() {
            padded(&source[(sample * inputs + c) * area..][..area], out, [height, width]);
        }
    });
    // The output's gradient on the same grid, zero where there is no output.
    let mut spread = vec![0.0_f32; outputs * len];
    let mut of_bias = vec![0.0_f32; outputs];
    let source = values(grad);
    spread.par_chunks_mut(len).zip(of_bias.par_iter_mut()).enumerate().for_each(|(o, (out, sum))| {
        let mut total = 0.0_f64;
        for (sample, out) in out.chunks_exact_mut(plane).enumerate() {
            let grad = &source[(sample * outputs + o) * area..][..area];
            total += grad.iter().map(|v| f64::from(*v)).sum::<f64>();
            for (row, out) in grad.chunks_exact(width).zip(out.chunks_exact_mut(pitch)) {
                out[..width].copy_from_slice(row);
            }
        }
        *sum = total as f32;
    });
    let wide = tensor(wide, [inputs, len + shift]);
    let spread = tensor(spread, [outputs, len]);
    let products: Vec<FlexTensor> = (0..9)
        .into_par_iter()
        .map(|k| {
            let offset = (k / 3 * pitch + k % 3) as isize;
            let rows = Slice::from(0..inputs as isize);
            let columns = Slice::from(offset..offset + len as isize);
            let view = Flex::float_slice(wide.clone(), &[rows, columns]);
            Flex::float_matmul(spread.clone(), Flex::float_transpose(view)).to_contiguous()
        })
        .collect();
    let mut weight = vec![0.0_f32; outputs * inputs * 9];
    for (k, product) in products.iter().enumerate() {
        for (nine, value) in weight.chunks_exact_mut(9).zip(values(product)) {
            nine[k] = *value;
        }
    }
    let weight = tensor(weight, [outputs, inputs, 3, 3]);
    (weight, tensor(of_bias, [outputs]))
}
