use std::fmt::Debug;
use std::path::Path;

use burn::module::{Module, ModuleDisplay};
use dmd_core::{Condition, Denoiser, FakeScore, NoiseSchedule};
use dmd_weights::Precision;

use super::Trainer;
use crate::training::PLAIN_KEYS;
use crate::{AdamW, Ema, Error};

impl<C, G, R, F, S> Trainer<'_, G, R, F, S>
where
    C: Condition,
    G: Denoiser<Condition = C> + Module + ModuleDisplay + Sync,
    R: Denoiser<Condition = C> + Clone + Debug + Sync,
    F: FakeScore<Condition = C> + ModuleDisplay,
    S: NoiseSchedule + Clone + Debug + Sync,
{
    /// Writes networks, average and optimisers into a folder, as safetensors. With [`Self::steps`] and the position of
    /// [`Self::noise`] this is everything a resumed run needs.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), Error> {
        let precision = Precision::Single;
        let path = |name: &str| folder.join(format!("{name}.safetensors"));
        dmd_weights::save(&self.distiller.generator.plain(), &path("generator"), &PLAIN_KEYS, precision)?;
        dmd_weights::save(&self.distiller.fake.valid(), &path("fake"), &PLAIN_KEYS, precision)?;
        dmd_weights::save(self.average.model(), &path("average"), &PLAIN_KEYS, precision)?;
        self.generator_optimizer.save(&path("generator_optimizer"))?;
        Ok(self.fake_optimizer.save(&path("fake_optimizer"))?)
    }

    /// Reads what [`Self::save`] wrote after `steps` steps.
    ///
    /// # Errors
    ///
    /// When a file is missing or belongs to another network.
    pub fn load(&mut self, folder: &Path, steps: usize) -> Result<(), Error> {
        let path = |name: &str| folder.join(format!("{name}.safetensors"));
        let file = |name: &str| dmd_weights::read(&path(name));
        let generator = self.distiller.generator.clone();
        self.distiller.generator =
            dmd_weights::load_for_training(generator, &file("generator")?, &PLAIN_KEYS)?;
        let fake = self.distiller.fake.clone();
        self.distiller.fake = dmd_weights::load_for_training(fake, &file("fake")?, &PLAIN_KEYS)?;
        let average = self.average.model().clone();
        let average = dmd_weights::load_for_training(average, &file("average")?, &PLAIN_KEYS)?;
        self.average = Ema::from_model(average, self.config.ema_decay);
        let optimizer = |name: &str| AdamW::load(self.config.optimizer, &path(name), &self.device);
        self.generator_optimizer = optimizer("generator_optimizer")?;
        self.fake_optimizer = optimizer("fake_optimizer")?;
        self.steps = steps;
        self.share_start()
    }
}
