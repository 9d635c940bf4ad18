use std::path::Path;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, FloatDType};
use dmd_core::{Denoiser, FewStep, Guided, Prediction};
use dmd_unet::{Network, Preconditioned};

use crate::family::{Conditioner, Family};
use crate::{Codec, Error, Noising, Recipe, TeacherOf};

/// An opened model.
#[derive(Debug, Clone)]
pub struct Model<F: Family> {
    /// Converts prompts to conditions.
    pub conditioner: F::Conditioner,
    /// The network's configuration.
    pub config: <F::Network as Network>::Config,
    /// The teacher's network, without guidance.
    pub teacher: Option<Preconditioned<F::Network>>,
    /// The distilled generator.
    pub generator: Option<Distilled<Preconditioned<F::Network>>>,
    /// Noise schedule and samplers.
    pub noising: Noising,
    /// Converts samples to pictures and back.
    pub codec: Codec,
    /// The teacher's default guidance scale: the one that the generator was distilled with, otherwise the usual one of
    /// the family.
    pub guidance_scale: f64,
    /// Notes for the user about how the model was opened, one sentence each: how each LoRA file was used, and what was
    /// assumed where a file does not say it.
    pub notes: Vec<String>,
    /// The device of the networks.
    pub device: Device,
}

impl<F: Family> Model<F> {
    /// The teacher's network.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] when the model was opened without a teacher, [`Error::FewSteps`] when its UNet is itself the
    /// generator.
    pub fn teacher(&self) -> Result<&Preconditioned<F::Network>, Error> {
        let few = self.generator.as_ref().map(|generator| &generator.recipe);
        let few = few.filter(|recipe| recipe.teacher == TeacherOf::Nothing);
        self.teacher.as_ref().ok_or_else(|| few.map_or(Error::NO_TEACHER, Error::few_steps))
    }

    /// Removes the teacher's network from the model and returns it.
    ///
    /// # Errors
    ///
    /// As [`Self::teacher`].
    pub fn take_teacher(&mut self) -> Result<Preconditioned<F::Network>, Error> {
        let teacher = self.teacher()?.clone();
        self.teacher = None;
        Ok(teacher)
    }

    /// The distilled generator.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] when there is no generator.
    pub fn generator(&self) -> Result<&Distilled<Preconditioned<F::Network>>, Error> {
        self.generator.as_ref().ok_or(Error::NO_GENERATOR)
    }

    /// The teacher under classifier-free guidance. Its network is converted to `dtype`.
    ///
    /// # Errors
    ///
    /// As [`Self::teacher`], and as [`Conditioner::unconditional`].
    pub fn guided(&self, scale: f64, dtype: FloatDType) -> Result<Guided<Preconditioned<F::Network>>, Error> {
        let network = self.teacher()?.clone().in_precision(dtype);
        Ok(Guided::new(network, self.conditioner.unconditional()?, scale))
    }

    /// The network as a fake score that is trained on the squared error of another parameterisation.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for an EDM model, whose preconditioning has a loss of its own.
    pub fn with_loss(
        &self,
        network: Preconditioned<F::Network>,
        loss: Prediction,
    ) -> Result<Preconditioned<F::Network>, Error> {
        let own = network.prediction();
        match own {
            Prediction::Karras { .. } if loss != own => Err(Error::Setting {
                setting: format!("fake.loss = {loss:?}"),
                hint: "leave it out: an EDM model has a loss of its own".to_owned(),
            }),
            _ => Ok(network.with_loss(loss)),
        }
    }

    /// The network with a critic's head on the training device. The head has random initial parameters.
    ///
    /// # Errors
    ///
    /// [`Error::Network`] when the model's samples are too small for a critic's head.
    pub fn with_critic(
        &self,
        network: Preconditioned<F::Network>,
        training: &Device,
    ) -> Result<Preconditioned<F::Network>, Error> {
        Ok(network.with_critic(F::Network::sizes(&self.config).critic(training)?))
    }

    /// The network with the weights of a file, in the memory layout for training.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] when the file is missing, damaged, or does not fit.
    pub fn with_weights(
        &self,
        mut network: Preconditioned<F::Network>,
        file: &Path,
    ) -> Result<Preconditioned<F::Network>, Error> {
        let file = dmd_weights::read(file)?;
        network.network = dmd_weights::load_for_training(network.network, &file, &F::Network::KEYS)?;
        Ok(network)
    }

    /// Shape of a sample of the size that the model was trained on, `[channels, height, width]`.
    pub fn shape(&self) -> [usize; 3] {
        F::Network::sizes(&self.config).sample()
    }

    /// The factor by which the network reduces the sides of a sample. The sides must be multiples of this.
    pub fn multiple(&self) -> usize {
        F::Network::sizes(&self.config).downsampling
    }

    /// Height and width of the pictures that the model was trained on.
    pub fn picture_size(&self) -> (usize, usize) {
        let [_, height, width] = self.shape();
        (height * self.codec.factor(), width * self.codec.factor())
    }

    /// The sides of a drawn sample must be multiples of this number. It is 1 for a network that can also halve odd
    /// sides.
    pub fn drawn_multiple(&self) -> usize {
        if F::Network::HALVES_ODD { 1 } else { self.multiple() }
    }

    /// Both sides of a drawn picture must be multiples of this number.
    pub fn picture_multiple(&self) -> usize {
        self.drawn_multiple() * self.codec.factor()
    }
}

/// A distilled generator, and how it must be called.
#[derive(Debug, Clone)]
pub struct Distilled<N: Module + ModuleDisplay> {
    /// The network with the noise levels of its calls.
    pub network: FewStep<N>,
    /// How the network is called.
    pub recipe: Recipe,
}

impl<N: Denoiser + Module + ModuleDisplay> Distilled<N> {
    /// Makes a generator from a network and the recipe by which it is called.
    pub fn new(network: N, recipe: Recipe, noising: &Noising) -> Self {
        let levels = recipe.timesteps.iter().map(|timestep| noising.at(*timestep)).collect();
        let network = FewStep::new(network, levels).with_noise_scale(recipe.noise_scale);
        Self { network, recipe }
    }
}
