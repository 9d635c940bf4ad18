//! What a distillation trained, as files that people use.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, FloatDType};
use dmd_core::{FewStep, Noise};
use dmd_model::{Family, Model, ModelFolder, Part, Recipe, RecipeFile};
use dmd_unet::{Network, Preconditioned};
use dmd_weights::{KeyMap, LoraSpelling, Precision, WholeFolder, trained};

use crate::config::{DistillConfig, TrainedPrecision};
use crate::trainer::read;
use crate::training::PLAIN_KEYS;
use crate::{Error, checkpoint};

pub(crate) type NetworkOf<F> = Preconditioned<<F as Family>::Network>;

/// The networks of a distillation on the training side, before its first step.
pub(crate) struct Start<F: Family> {
    pub(crate) generator: FewStep<NetworkOf<F>>,
    pub(crate) fake: NetworkOf<F>,
    pub(crate) recipe: Recipe,
}

impl<F: Family> Start<F> {
    /// Copies of the teacher or of an earlier run's networks, with low-rank updates and a critic's head where the
    /// configuration has them.
    pub(crate) fn new(
        config: &DistillConfig,
        model: &Model<F>,
        teacher: &NetworkOf<F>,
        device: &Device,
    ) -> Result<Self, Error> {
        let last = model.noising.last_timestep();
        config.check_schedule(last)?;
        let network = |from, named| Self::network(config, model, teacher, (from, named), device);
        let start = network(config.generator.start.as_deref(), ("generator", "generator.start"))?;
        let recipe = Recipe::new(config.timesteps(last)?, config.guidance_scale, &model.noising)?;
        let levels = recipe.timesteps.iter().map(|t| model.noising.at(*t)).collect();
        let generator = FewStep::new(start, levels).with_noise_scale(recipe.noise_scale);
        let from = config.fake.start.as_deref();
        let mut fake = network(from, ("fake score", "fake.start"))?;
        if let Some(loss) = config.fake.loss {
            fake = model.with_loss(fake, loss)?;
        }
        if config.adversarial.is_some() {
            device.seed(config.seed);
            fake = model.with_critic(fake, &device.clone().autodiff())?;
            if let (Some(file), Some(head)) = (from.and_then(critic_beside), fake.critic().cloned()) {
                let file = dmd_weights::read(&file)?;
                fake = fake.with_critic(dmd_weights::load_for_training(head, &file, &KeyMap::default())?);
            }
        }
        Ok(Self { generator, fake, recipe })
    }

    fn network(
        config: &DistillConfig,
        model: &Model<F>,
        teacher: &NetworkOf<F>,
        (from, (purpose, option)): (Option<&Path>, (&str, &'static str)),
        device: &Device,
    ) -> Result<NetworkOf<F>, Error> {
        let network = teacher.clone().train();
        let mut network = match config.generator.recompute {
            true if dmd_kernels::recomputes(device) => network.map_network(Network::recomputing),
            // burn's own way: activations of element-wise operations alone.
            true => network.fork(&device.clone().autodiff().gradient_checkpointing()),
            false => network,
        };
        let refused =
            |path: &Path, must| Err(Error::Option { key: option, value: path.display().to_string(), must });
        let updates = |path: &Path| Ok::<_, Error>(dmd_weights::is_lora(&dmd_weights::read(path)?));
        let Some(section) = &config.lora else {
            let network = match from {
                Some(path) if updates(path)? => {
                    return refused(
                        path,
                        "a network's weights: low-rank updates need the [lora] section that they were trained with",
                    );
                }
                Some(path) => model.with_weights(network, path)?,
                None => network,
            };
            return Ok(match config.precision {
                TrainedPrecision::Single => network,
                other => network.map_network(|network| network.computing_in(other.dtype())),
            });
        };
        let mut noise = Noise::stream(config.seed, &format!("lora of the {purpose}"));
        network.network = section.attach(network.network, &F::Network::KEYS, &mut noise)?;
        if let Some(path) = from {
            // Updates of another network would be written as if they were the teacher's.
            if !updates(path)? {
                return refused(
                    path,
                    "a LoRA file where there is a [lora] section, which updates the teacher",
                );
            }
            network.network =
                dmd_weights::load_lora(network.network, path, &F::Network::KEYS, section.alpha())?;
        }
        Ok(network)
    }
}

/// The teacher's network as generator and fake score start from it: with low-rank updates it stays as it is, in the float
/// type in which they compute.
pub(crate) fn frozen<N: Network>(config: &DistillConfig, teacher: Preconditioned<N>) -> Preconditioned<N> {
    match config.lora {
        Some(_) => teacher.in_precision(config.precision.dtype()),
        None => teacher,
    }
}

/// The file of a fake score's critic, beside the network's.
const CRITIC: &str = "critic.safetensors";

/// The critic's head beside a fake score's file, where there is one.
pub(crate) fn critic_beside(fake: &Path) -> Option<PathBuf> {
    Some(fake.with_file_name(CRITIC)).filter(|file| file.is_file())
}

/// What a distillation trained: the averaged generator and the fake score, on the plain side.
#[derive(Debug)]
pub struct Trained<'a, F: Family> {
    pub(crate) config: &'a DistillConfig,
    pub(crate) model: &'a Model<F>,
    pub(crate) generator: NetworkOf<F>,
    pub(crate) fake: NetworkOf<F>,
    pub(crate) recipe: Recipe,
}

impl<'a, F: Family> Trained<'a, F> {
    /// What a run's checkpoint holds, and after how many steps: of the newest, or of one that was kept.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] when there is none, naming those there are; when it belongs to another configuration.
    pub fn of_checkpoint(
        run: &Path,
        step: Option<usize>,
        config: &'a DistillConfig,
        model: &'a Model<F>,
        device: &Device,
    ) -> Result<(Self, usize), Error> {
        let (folder, step) = checkpoint::at_step(run, "distillation", step)?;
        let teacher = frozen(config, model.teacher()?.clone());
        let Start { generator, fake, recipe } = Start::new(config, model, &teacher, device)?;
        let (of_generator, of_fake) = (trained(&generator, &PLAIN_KEYS), trained(&fake, &PLAIN_KEYS));
        let average = Some(folder.join("average.safetensors")).filter(|file| file.is_file());
        let file = average.unwrap_or_else(|| folder.join("generator.safetensors"));
        let generator = read(generator, &file, &of_generator)?.plain().denoiser;
        let fake = read(fake, &folder.join("fake.safetensors"), &of_fake)?.valid();
        Ok((Self { config, model, generator, fake, recipe }, step))
    }

    /// Writes everything below a folder, each part whole or not at all, and returns the parts' folders:
    ///
    /// - `unet_one_step`: the generator's network, with low-rank updates merged, and how it is called;
    /// - `lora`, for a run with `[lora]`: the generator's updates as LoRA files, `pytorch_lora_weights.safetensors` in
    ///   diffusers' and PEFT's spelling, `kohya.safetensors` in kohya's. Their metadata says how the generator is called;
    /// - `fake_score`: the fake score's network, for a run with `[lora]` its updates too, and its critic's head where it has
    ///   one. A second stage starts from these (`generator.start`, `fake.start`).
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn write(&self, home: &Path, precision: Precision) -> Result<Vec<PathBuf>, Error> {
        let mut folders = vec![ModelFolder::new(home).part(Part::Generator), home.join("fake_score")];
        WholeFolder::new(&folders[0]).replace(|fresh| self.write_generator(fresh, precision))?;
        WholeFolder::new(&folders[1]).replace(|fresh| self.write_fake(fresh, precision))?;
        if self.config.lora.is_some() {
            folders.push(home.join("lora"));
            WholeFolder::new(&folders[2]).replace(|fresh| self.write_lora(fresh, precision))?;
        }
        Ok(folders)
    }

    /// Writes the generator alone into a folder: its network, with low-rank updates merged, and how it is called.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn write_generator(&self, folder: &Path, precision: Precision) -> Result<(), Error> {
        let network = whole(&self.generator.network);
        network.save(&self.model.config, folder, precision)?;
        Ok(self.recipe.write(folder)?)
    }

    fn write_fake(&self, folder: &Path, precision: Precision) -> Result<(), Error> {
        let network = whole(&self.fake.network);
        network.save(&self.model.config, folder, precision)?;
        if self.config.lora.is_some() {
            let path = folder.join("pytorch_lora_weights.safetensors");
            self.save_lora(&self.fake.network, &path, (LoraSpelling::Peft, precision), &[])?;
        }
        let Some(critic) = self.fake.critic() else { return Ok(()) };
        Ok(dmd_weights::save(critic, &folder.join(CRITIC), &KeyMap::default(), precision)?)
    }

    fn write_lora(&self, folder: &Path, precision: Precision) -> Result<(), Error> {
        let recipe = self.recipe.to_json();
        for (name, spelling) in [("pytorch_lora_weights", LoraSpelling::Peft), ("kohya", LoraSpelling::Kohya)]
        {
            let path = folder.join(format!("{name}.safetensors"));
            let metadata = [(RecipeFile::METADATA, recipe.as_str())];
            self.save_lora(&self.generator.network, &path, (spelling, precision), &metadata)?;
        }
        Ok(())
    }

    fn save_lora(
        &self,
        network: &F::Network,
        path: &Path,
        form: (LoraSpelling, Precision),
        metadata: &[(&str, &str)],
    ) -> Result<(), Error> {
        let Some(section) = &self.config.lora else { return Ok(()) };
        let keys = &F::Network::KEYS;
        Ok(dmd_weights::save_lora(network, path, keys, section.alpha(), form, metadata)?)
    }
}

/// A network with low-rank updates merged, added up in single precision.
fn whole<N: Network>(network: &N) -> N {
    dmd_weights::cast(network.clone(), FloatDType::F32).materialize()
}
