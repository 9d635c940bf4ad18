use burn::module::Module;
use burn::tensor::{DType, FloatDType, Tensor};
use dmd_core::{Condition, Denoiser, FakeScore, NoiseLevel, Prediction, per_sample};

use crate::{Discriminator, UNet2d};

/// A [`UNet2d`] with the meaning of its output: an estimate of the clean latent.
#[derive(Module, Debug)]
pub struct UNetDenoiser {
    /// The network.
    pub unet: UNet2d,
    /// A critic's head on its bottleneck; a fake score's alone.
    critic: Option<Discriminator>,
    #[module(skip)]
    prediction: Prediction,
    #[module(skip)]
    loss: Prediction,
    /// The float type of the network's parameters and activations.
    #[module(skip)]
    dtype: DType,
}

impl UNetDenoiser {
    /// The denoiser of a network that predicts `prediction`.
    pub fn new(unet: UNet2d, prediction: Prediction) -> Self {
        Self { unet, critic: None, prediction, loss: prediction, dtype: DType::F32 }
    }

    /// The same denoiser, trained as a fake score on the squared error of another parameterisation:
    /// [`Prediction::Velocity`] gives high noise levels their full weight.
    pub fn with_loss(self, loss: Prediction) -> Self {
        Self { loss, ..self }
    }

    /// The same denoiser with a critic's head on its bottleneck (DMD2, section 4.3).
    pub fn with_critic(self, critic: Discriminator) -> Self {
        Self { critic: Some(critic), ..self }
    }

    /// The same denoiser, frozen, with its network in another float type. Its inputs and outputs stay in single
    /// precision, and with them the step to x0, which multiplies errors by 14.6 at t = 999.
    pub fn in_precision(self, dtype: FloatDType) -> Self {
        Self { unet: dmd_weights::cast(self.unet, dtype), dtype: dtype.into(), ..self }
    }

    /// The critic's head, if there is one.
    pub fn critic(&self) -> Option<&Discriminator> {
        self.critic.as_ref()
    }

    /// What the network predicts.
    pub fn prediction(&self) -> Prediction {
        self.prediction
    }
}

impl Denoiser for UNetDenoiser {
    type Condition = Tensor<3>;

    fn denoise(&self, x_t: Tensor<4>, level: &NoiseLevel, text: &Tensor<3>) -> Tensor<4> {
        let text = text.expand(x_t.dims()[0]);
        let c_in = self.prediction.scalings(level).c_in;
        let input = x_t.clone() * per_sample(c_in);
        let output = match self.dtype {
            DType::F32 => self.unet.forward(input, level.t.clone(), text.clone()),
            dtype => {
                let output = self.unet.forward(input.cast(dtype), level.t.clone(), text.clone().cast(dtype));
                output.cast(DType::F32)
            }
        };
        self.prediction.to_x0(output, x_t, level)
    }
}

impl FakeScore for UNetDenoiser {
    fn loss_weight(&self, level: &NoiseLevel) -> Tensor<1> {
        self.loss.loss_weight(level)
    }

    /// The encoder and the middle block only, without guidance.
    fn logits(&self, x_t: Tensor<4>, level: &NoiseLevel, text: &Tensor<3>) -> Option<Tensor<2>> {
        let critic = self.critic.as_ref()?;
        let text = text.expand(x_t.dims()[0]);
        let c_in = self.prediction.scalings(level).c_in;
        let encoded = self.unet.encode(x_t * per_sample(c_in), level.t.clone(), text);
        Some(critic.forward(encoded.bottleneck))
    }
}
