use std::fmt::Debug;
use std::path::Path;

use burn::module::{Module, ModuleDisplay};
use dmd_core::{Condition, Denoiser, FakeScore, NoiseSchedule};
use dmd_weights::{Precision, load_some_for_training, save_some, trained};

use super::Trainer;
use crate::training::PLAIN_KEYS;
use crate::{AdamW, Error};

impl<C, G, R, F, S> Trainer<'_, G, R, F, S>
where
    C: Condition,
    G: Denoiser<Condition = C> + Module + ModuleDisplay + Sync,
    R: Denoiser<Condition = C> + Clone + Debug + Sync,
    F: FakeScore<Condition = C> + ModuleDisplay,
    S: NoiseSchedule + Clone + Debug + Sync,
{
    /// Writes networks, the average where one is kept, and optimisers into a folder, as safetensors: of the networks what is trained. With
    /// [`Self::steps`] and the position of [`Self::noise`] this is everything a resumed run needs.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), Error> {
        let path = |name: &str| folder.join(format!("{name}.safetensors"));
        let (generator, fake) = (&self.distiller.generator, &self.distiller.fake);
        let (of_generator, of_fake) = (trained(generator, &PLAIN_KEYS), trained(fake, &PLAIN_KEYS));
        write(&generator.plain(), &path("generator"), &of_generator)?;
        write(&fake.valid(), &path("fake"), &of_fake)?;
        if self.average.kept() {
            write(&self.generator(), &path("average"), &of_generator)?;
        }
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
        let (generator, fake) = (self.distiller.generator.clone(), self.distiller.fake.clone());
        let (of_generator, of_fake) = (trained(&generator, &PLAIN_KEYS), trained(&fake, &PLAIN_KEYS));
        self.distiller.generator = read(generator, &path("generator"), &of_generator)?;
        self.distiller.fake = read(fake, &path("fake"), &of_fake)?;
        // A run that went on without an average has no file of it.
        match path("average") {
            file if file.is_file() => {
                self.average.restart(&read(self.distiller.generator.clone(), &file, &of_generator)?);
            }
            _ => self.average.restart(&self.distiller.generator),
        }
        let optimizer = |name: &str| AdamW::load(self.config.optimizer, &path(name), &self.device);
        self.generator_optimizer = optimizer("generator_optimizer")?;
        self.fake_optimizer = optimizer("fake_optimizer")?;
        self.steps = steps;
        self.share_start()
    }
}

fn write<M: Module>(module: &M, path: &Path, names: &[String]) -> Result<(), Error> {
    Ok(save_some(module, path, &PLAIN_KEYS, Precision::Single, names)?)
}

/// A module with what a checkpoint's file holds of it: the parameters under some keys.
pub(crate) fn read<M: Module>(module: M, path: &Path, names: &[String]) -> Result<M, Error> {
    Ok(load_some_for_training(module, &dmd_weights::read(path)?, &PLAIN_KEYS, names)?)
}
