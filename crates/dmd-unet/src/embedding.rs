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

/// Sinusoids of a guidance scale, `[sin.., cos..]` over `width / 2` frequencies from 1 down to 1/10000. Latent
/// consistency models take the scale in this form (diffusers' `get_guidance_scale_embedding` of `scale - 1`).
fn guidance_sinusoids(scale: f64, width: usize, device: &Device) -> Tensor<2> {
    let half = width / 2;
    let frequency = |i: usize| (-(10_000_f64.ln()) * i as f64 / (half - 1) as f64).exp();
    let angles: Vec<f64> = (0..half).map(|i| 1000.0 * (scale - 1.0) * frequency(i)).collect();
    let values = angles.iter().map(|angle| angle.sin()).chain(angles.iter().map(|angle| angle.cos()));
    let values: Vec<f32> = values.map(|value| value as f32).collect();
    Tensor::from_data(TensorData::new(values, [1, width]), device)
}

/// Default guidance scale of a network that takes the scale as an input: the default of diffusers'
/// `LatentConsistencyModelPipeline`.
pub const TOLD_GUIDANCE: f64 = 8.5;

/// The two-layer network that turns sinusoids into the embedding that every residual block receives.
#[derive(Module, Debug)]
pub(crate) struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
    /// Projection of the guidance's sinusoids, for a network that takes the guidance scale as an input.
    cond_proj: Option<Linear>,
    /// The guidance scale that such a network receives.
    guidance: f64,
}

impl TimestepEmbedding {
    pub(crate) fn new(width: usize, embedding_width: usize, device: &Device) -> Self {
        Self {
            linear_1: LinearConfig::new(width, embedding_width).init(device),
            linear_2: LinearConfig::new(embedding_width, embedding_width).init(device),
            cond_proj: None,
            guidance: TOLD_GUIDANCE,
        }
    }

    /// The embedding with an additional input: the guidance scale, encoded in `sinusoids` sinusoids.
    pub(crate) fn told_guidance(self, sinusoids: usize, device: &Device) -> Self {
        let [width, _] = self.linear_1.weight.dims();
        let cond_proj = LinearConfig::new(sinusoids, width).with_bias(false).init(device);
        Self { cond_proj: Some(cond_proj), ..self }
    }

    pub(crate) fn with_guidance(self, scale: f64) -> Self {
        Self { guidance: scale, ..self }
    }

    /// `[batch, width]` → `[batch, embedding_width]`. The caller computes the sinusoids in single precision, whatever
    /// the float type of the network: half precision cannot distinguish neighbouring angles.
    pub(crate) fn forward(&self, sinusoids: Tensor<2>) -> Tensor<2> {
        let dtype = self.linear_1.weight.val().dtype();
        let mut sinusoids = sinusoids.cast(dtype);
        if let Some(project) = &self.cond_proj {
            let [width, _] = project.weight.dims();
            let told = guidance_sinusoids(self.guidance, width, &sinusoids.device());
            sinusoids = sinusoids + linear_rows(project, told.cast(dtype));
        }
        linear_rows(&self.linear_2, silu(linear_rows(&self.linear_1, sinusoids)))
    }
}
