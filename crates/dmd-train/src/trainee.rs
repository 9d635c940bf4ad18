use std::path::Path;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use dmd_weights::{KeyMap, Precision};

use crate::Error;
use crate::ema::Ema;
use crate::optimizer::{AdamW, AdamWConfig};

/// Module paths as they are, for checkpoints of a run.
pub(crate) const PLAIN_KEYS: KeyMap = KeyMap { prefix: "", renames: &[], aliases: &[] };

/// A network in training: the parameters, their moving average, and the optimiser.
#[derive(Debug)]
pub(crate) struct Trainee<M: Module> {
    pub(crate) model: M,
    average: Ema<M>,
    optimizer: AdamW,
    config: AdamWConfig,
    decay: f64,
}

impl<M: Module> Trainee<M> {
    pub(crate) fn new(model: M, decay: f64, config: AdamWConfig) -> Self {
        Self { average: Ema::new(&model, decay), optimizer: AdamW::new(config), model, config, decay }
    }

    /// The averaged network, on the plain side.
    pub(crate) fn average(&self) -> &M {
        self.average.model()
    }

    /// One update along a loss's gradient; the norm before clipping.
    pub(crate) fn descend(&mut self, loss: &Tensor<1>, rate: f64, step: usize) -> f64 {
        let grads = GradientsParams::from_module(&mut loss.backward(), &self.model);
        let (model, norm) = self.optimizer.step(rate, self.model.clone(), grads);
        self.average = self.average.clone().update(&model, step);
        self.model = model;
        norm
    }

    /// Writes `NAMEonline`, `NAMEaverage` and `NAMEoptimizer.safetensors`.
    pub(crate) fn save(&self, folder: &Path, name: &str) -> Result<(), Error> {
        let path = |part: &str| folder.join(format!("{name}{part}.safetensors"));
        dmd_weights::save(&self.model.valid(), &path("online"), &PLAIN_KEYS, Precision::Single)?;
        dmd_weights::save(self.average.model(), &path("average"), &PLAIN_KEYS, Precision::Single)?;
        Ok(self.optimizer.save(&path("optimizer"))?)
    }

    /// Reads what [`Self::save`] wrote; `device` is the plain device.
    pub(crate) fn load(&mut self, folder: &Path, name: &str, device: &Device) -> Result<(), Error> {
        let path = |part: &str| folder.join(format!("{name}{part}.safetensors"));
        let read = |model: M, part: &str| {
            let file = dmd_weights::read(&path(part))?;
            dmd_weights::load_for_training(model, &file, &PLAIN_KEYS)
        };
        self.model = read(self.model.clone(), "online")?;
        self.average = Ema::from_model(read(self.average.model().clone(), "average")?, self.decay);
        self.optimizer = AdamW::load(self.config, &path("optimizer"), device)?;
        Ok(())
    }
}

/// The optimiser of a teacher's stages: PyTorch's AdamW, gradients clipped to norm 1.
pub(crate) fn teacher_optimizer() -> AdamWConfig {
    AdamWConfig { max_norm: 1.0, ..AdamWConfig::default() }
}
