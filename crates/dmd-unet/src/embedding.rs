use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData};
use dmd_kernels::{linear_rows, silu};

/// Sinusoids of a time, `[cos.., sin..]` over `width / 2` frequencies from 1 down to nearly
/// 1/10000 (diffusers' `Timesteps` with `flip_sin_to_cos` and no frequency shift).
///
/// # Shapes
///
/// `t`: `[batch]`; the result is `[batch, width]`.
pub(crate) fn sinusoidal(t: Tensor<1>, width: usize) -> Tensor<2> {
    let half = width / 2;
    let frequencies: Vec<f32> =
        (0..half).map(|i| (-(10_000_f64.ln()) * i as f64 / half as f64).exp() as f32).collect();
    let frequencies = Tensor::<2>::from_data(TensorData::new(frequencies, [1, half]), &t.device());
    let [batch] = t.dims();
    let angles = t.reshape([batch, 1]) * frequencies;
    Tensor::cat(vec![angles.clone().cos(), angles.sin()], 1)
}

/// The two-layer network that turns sinusoids into the embedding every residual block receives.
#[derive(Module, Debug)]
pub(crate) struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    pub(crate) fn new(width: usize, embedding_width: usize, device: &Device) -> Self {
        Self {
            linear_1: LinearConfig::new(width, embedding_width).init(device),
            linear_2: LinearConfig::new(embedding_width, embedding_width).init(device),
        }
    }

    /// `[batch, width]` → `[batch, embedding_width]`. Sinusoids are taken in single precision, whatever the
    /// network's: a half cannot tell neighbouring angles apart.
    pub(crate) fn forward(&self, sinusoids: Tensor<2>) -> Tensor<2> {
        let sinusoids = sinusoids.cast(self.linear_1.weight.val().dtype());
        linear_rows(&self.linear_2, silu(linear_rows(&self.linear_1, sinusoids)))
    }
}
