use std::fmt::Debug;
use std::path::Path;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Tensor};
use dmd_core::Noise;
use dmd_weights::{KeyMap, Precision};

use crate::config::TeacherOptimizer;
use crate::fingerprint::Fingerprint;
use crate::run::{Probe, Stage};
use crate::{AdamW, AdamWConfig, Ema, Error, Figures, Gradients, LearningRate};

/// Module paths as they are, for checkpoints of a run.
pub(crate) const PLAIN_KEYS: KeyMap = KeyMap { prefix: "", renames: &[], aliases: &[] };

/// What one network is trained on: its loss, and what to look at meanwhile. [`Training`] does the rest.
pub trait Recipe: Debug {
    /// What is trained.
    type Network: Module + ModuleDisplay;

    /// Short name of the stage, used for file names: `autoencoder`, `diffusion`.
    fn name(&self) -> &'static str;

    /// The loss `[1]` of one step, on examples and noise drawn from `noise`, and figures beside it. `rate` is the
    /// learning rate of the step as a share of its peak.
    ///
    /// # Errors
    ///
    /// What the data source returns.
    fn loss(
        &mut self,
        network: &Self::Network,
        rate: f64,
        noise: &mut Noise,
    ) -> Result<(Tensor<1>, Figures), Error>;

    /// How many examples a step's loss is of, for the speed in `metrics.jsonl`; the default does not know.
    fn batch(&self) -> Option<usize> {
        None
    }

    /// Pictures and figures of the averaged network; `None` when `stopped` said so before they were done. The default
    /// has neither.
    ///
    /// # Errors
    ///
    /// What the data source returns.
    fn probe(&self, _network: &Self::Network, _stopped: &dyn Fn() -> bool) -> Result<Option<Probe>, Error> {
        Ok(Some(Probe::default()))
    }
}

/// How a [`Recipe`] is trained.
#[derive(Debug, Clone)]
pub struct TrainingConfig {
    /// The learning rate.
    pub rate: LearningRate,
    /// Decay of the moving average of the parameters; 0 is no average.
    pub ema_decay: f64,
    /// Seed of the stage's random numbers.
    pub seed: u64,
    /// What the training depends on; a checkpoint of something else is refused.
    pub made_from: Fingerprint,
}

/// A network in training by a [`Recipe`]: parameters, their moving average, the optimiser and the noise.
#[derive(Debug)]
pub struct Training<R: Recipe> {
    recipe: R,
    model: R::Network,
    average: Ema,
    optimizer: AdamW,
    constants: AdamWConfig,
    config: TrainingConfig,
    noise: Noise,
    device: Device,
    steps: usize,
}

impl<R: Recipe> Training<R> {
    /// Starts to train a network, which lives on the training side of `device` ([`Device::autodiff`]); `device` is the
    /// plain side. `stream` names the stream of random numbers. The optimiser is PyTorch's AdamW, gradients clipped to norm
    /// 1, unless [`Self::with_optimizer`] says otherwise.
    pub fn new(recipe: R, model: R::Network, config: TrainingConfig, stream: &str, device: &Device) -> Self {
        let constants = TeacherOptimizer::default().into();
        Self {
            average: Ema::new(&model, config.ema_decay, device),
            optimizer: AdamW::new(constants),
            constants,
            noise: Noise::stream(config.seed, stream),
            device: device.clone(),
            steps: 0,
            recipe,
            model,
            config,
        }
    }

    /// The same training, not begun, with other constants of the optimiser.
    pub fn with_optimizer(self, constants: AdamWConfig) -> Self {
        Self { optimizer: AdamW::new(constants), constants, ..self }
    }

    /// The recipe.
    pub(crate) fn recipe(&self) -> &R {
        &self.recipe
    }

    /// The averaged network, on the plain side.
    pub fn average(&self) -> R::Network {
        self.average.of(&self.model)
    }

    /// Network and recipe, to go on with the next stage.
    pub(crate) fn into_parts(self) -> (R::Network, R) {
        (self.model, self.recipe)
    }

    /// The noise at its present position.
    pub(crate) fn noise_here(&self) -> Noise {
        self.noise.clone()
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }
}

impl<R: Recipe> Stage for Training<R> {
    fn name(&self) -> &'static str {
        self.recipe.name()
    }

    fn made_from(&self) -> Fingerprint {
        self.config.made_from.clone()
    }

    fn step(&mut self) -> Result<Figures, Error> {
        let rate = self.config.rate.at(self.steps);
        let share = rate / self.config.rate.peak();
        let (loss, mut figures) = self.recipe.loss(&self.model, share, &mut self.noise)?;
        let gradients = Gradients::of(loss, &self.model);
        let reported = ("gradient_norm", &mut figures);
        self.optimizer.update(rate, &mut self.model, gradients, reported);
        self.average.update(&self.model, self.steps);
        self.steps += 1;
        figures.number("learning_rate", rate);
        Ok(figures)
    }

    fn save(&self, folder: &Path) -> Result<(), Error> {
        let path = |part: &str| folder.join(format!("{part}.safetensors"));
        dmd_weights::save(&self.model.valid(), &path("online"), &PLAIN_KEYS, Precision::Single)?;
        dmd_weights::save(&self.average(), &path("average"), &PLAIN_KEYS, Precision::Single)?;
        Ok(self.optimizer.save(&path("optimizer"))?)
    }

    fn load(&mut self, folder: &Path, steps: usize) -> Result<(), Error> {
        let path = |part: &str| folder.join(format!("{part}.safetensors"));
        let read = |model: R::Network, part: &str| {
            let file = dmd_weights::read(&path(part))?;
            dmd_weights::load_for_training(model, &file, &PLAIN_KEYS)
        };
        self.model = read(self.model.clone(), "online")?;
        self.average.restart(&read(self.model.clone(), "average")?);
        self.optimizer = AdamW::load(self.constants, &path("optimizer"), &self.device)?;
        self.steps = steps;
        Ok(())
    }

    fn noise(&mut self) -> &mut Noise {
        &mut self.noise
    }

    fn samples_per_step(&self) -> Option<usize> {
        self.recipe.batch()
    }

    fn device(&self) -> Option<&Device> {
        Some(&self.device)
    }

    fn probe(&self, stopped: &dyn Fn() -> bool) -> Result<Option<Probe>, Error> {
        self.recipe.probe(&self.average(), stopped)
    }
}
