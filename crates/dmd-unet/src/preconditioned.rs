use burn::module::Module;
use burn::tensor::{FloatDType, Tensor};
use dmd_core::{Condition, Denoiser, FakeScore, NoiseLevel, Prediction, per_sample};

use crate::{ClassUNet2d, Discriminator, Network, UNet2d};

/// A network together with the meaning of its output. The two give an estimate of the clean sample:
/// `x0 = c_skip · x_t + c_out · F(c_in · x_t, time, condition)`.
///
/// With EDM's preconditioning ([`Prediction::Karras`]) the network receives `ln(sigma) / 4` as its time, unless
/// [`Self::telling`] sets another factor. With any other prediction it receives the schedule's time.
#[derive(Module, Debug)]
pub struct Preconditioned<N> {
    /// The network `F`.
    pub network: N,
    /// A critic's head on the network's bottleneck. Only a fake score has one.
    critic: Option<Discriminator>,
    #[module(skip)]
    prediction: Prediction,
    #[module(skip)]
    loss: Prediction,
    #[module(skip)]
    log_factor: f64,
}

/// A text-conditional network with the meaning of its output.
pub type UNetDenoiser = Preconditioned<UNet2d>;

/// A class-conditional or unconditional network with the meaning of its output.
pub type ClassDenoiser = Preconditioned<ClassUNet2d>;

impl<N: Network> Preconditioned<N> {
    /// The denoiser of a network that predicts `prediction`.
    pub fn new(network: N, prediction: Prediction) -> Self {
        Self { network, critic: None, prediction, loss: prediction, log_factor: 0.25 }
    }

    /// The same denoiser with another time under EDM's preconditioning: the network receives `log_factor · ln(sigma)`.
    pub fn telling(self, log_factor: f64) -> Self {
        Self { log_factor, ..self }
    }

    /// The same denoiser with another loss: as a fake score it is trained on the squared error of the parameterisation
    /// `loss`. [`Prediction::Velocity`] gives high noise levels their full weight.
    pub fn with_loss(self, loss: Prediction) -> Self {
        Self { loss, ..self }
    }

    /// The same denoiser with a critic's head on its bottleneck (DMD2, section 4.3).
    pub fn with_critic(self, critic: Discriminator) -> Self {
        Self { critic: Some(critic), ..self }
    }

    /// The same denoiser, frozen, with its network in another float type. Its inputs and outputs stay in single
    /// precision. So does the conversion to x0, which multiplies errors by 14.6 at t = 999.
    pub fn in_precision(self, dtype: FloatDType) -> Self {
        Self { network: dmd_weights::cast(self.network, dtype), ..self }
    }

    /// The same denoiser with `change` applied to its network.
    pub fn map_network(self, change: impl FnOnce(N) -> N) -> Self {
        Self { network: change(self.network), ..self }
    }

    /// The critic's head, if the denoiser has one.
    pub fn critic(&self) -> Option<&Discriminator> {
        self.critic.as_ref()
    }

    /// What the network predicts.
    pub fn prediction(&self) -> Prediction {
        self.prediction
    }

    /// The network's input, and the time that the network receives.
    fn inputs(&self, x_t: Tensor<4>, level: &NoiseLevel) -> (Tensor<4>, Tensor<1>) {
        let t = match self.prediction {
            Prediction::Karras { .. } => level.sigma.clone().log() * self.log_factor,
            _ => level.t.clone(),
        };
        (x_t * per_sample(self.prediction.scalings(level).c_in), t)
    }
}

impl<N: Network> Denoiser for Preconditioned<N> {
    type Condition = N::Condition;

    fn denoise(&self, x_t: Tensor<4>, level: &NoiseLevel, condition: &N::Condition) -> Tensor<4> {
        let [batch, ..] = x_t.dims();
        let (input, t) = self.inputs(x_t.clone(), level);
        let output = self.network.forward(input, t, &condition.expand(batch));
        self.prediction.to_x0(output, x_t, level)
    }
}

impl<N: Network> FakeScore for Preconditioned<N> {
    fn loss_weight(&self, level: &NoiseLevel) -> Tensor<1> {
        self.loss.loss_weight(level)
    }

    /// Runs only the down blocks and the middle block, without guidance.
    fn logits(&self, x_t: Tensor<4>, level: &NoiseLevel, condition: &N::Condition) -> Option<Tensor<2>> {
        let critic = self.critic.as_ref()?;
        let [batch, ..] = x_t.dims();
        let (input, t) = self.inputs(x_t, level);
        Some(critic.forward(self.network.encode(input, t, &condition.expand(batch))))
    }
}
