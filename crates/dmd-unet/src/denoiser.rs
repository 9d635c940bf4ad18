use burn::module::Module;
use burn::tensor::Tensor;
use dmd_core::{Denoiser, FakeScore, NoiseLevel, Prediction, per_sample};

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
}

impl UNetDenoiser {
    /// The denoiser of a network that predicts `prediction`.
    pub fn new(unet: UNet2d, prediction: Prediction) -> Self {
        Self { unet, critic: None, prediction, loss: prediction }
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

    /// What the network predicts.
    pub fn prediction(&self) -> Prediction {
        self.prediction
    }
}

impl Denoiser for UNetDenoiser {
    type Condition = Tensor<3>;

    fn denoise(&self, x_t: Tensor<4>, level: &NoiseLevel, text: &Tensor<3>) -> Tensor<4> {
        let c_in = self.prediction.scalings(level).c_in;
        let input = x_t.clone() * per_sample(c_in);
        let output = self.unet.forward(input, level.t.clone(), text.clone());
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
        let c_in = self.prediction.scalings(level).c_in;
        let encoded = self.unet.encode(x_t * per_sample(c_in), level.t.clone(), text.clone());
        Some(critic.forward(encoded.bottleneck))
    }
}
