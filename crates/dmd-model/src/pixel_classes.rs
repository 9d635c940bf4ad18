//! Class-conditional and unconditional EDM models on pixels: CIFAR-10's and ImageNet-64's kind.
//!
//! A folder has `unet` (diffusers' `UNet2DModel`), `scheduler` (`EDMEulerScheduler`), perhaps `unet_one_step`, and
//! `classes.json` where classes have names; otherwise a class is named by its number.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType};
use dmd_core::{Classes, Prediction};
use dmd_scheduler::EdmConfig;
use dmd_unet::{CLASS_UNET_KEYS, ClassDenoiser, ClassUNet2d, ClassUNetConfig};
use dmd_weights::{Precision, read_config, read_json, write_json};

use crate::classes::ClassConditioner;
use crate::family::Family;
use crate::fit::Misfits;
use crate::folder::{ModelFolder, Part, scheduler_file};
use crate::model::no_network;
use crate::{Codec, Distilled, Error, Model, Noising, OpenOptions, Recipe, critic};

/// The family of class-conditional models on pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelClasses;

/// A model folder whose configurations were read and compared.
struct Parts {
    folder: ModelFolder,
    unet: Option<ClassUNetConfig>,
    generator: Option<(PathBuf, ClassUNetConfig)>,
    recipe: Option<Recipe>,
    names: Vec<String>,
    noising: Noising,
}

impl Parts {
    fn open(options: &OpenOptions) -> Result<Self, Error> {
        let folder = ModelFolder::open(&options.model)?;
        if options.tiny_autoencoder.is_some() || options.tile.is_some() {
            return Err(Error::Setting {
                setting: "a tiny autoencoder, or tiles,".to_owned(),
                hint: "it draws pixels without an autoencoder".to_owned(),
            });
        }
        let noising = Noising::exploding(folder.scheduler::<EdmConfig>()?)?;
        let config = |folder: &Path| -> Result<ClassUNetConfig, Error> {
            let config: ClassUNetConfig = read_config(folder)?;
            config.validate()?;
            Ok(config)
        };
        let own = folder.has(Part::UNet).then(|| config(&folder.part(Part::UNet))).transpose()?;
        let path = options.generator.clone();
        let path = path.or(folder.has(Part::Generator).then(|| folder.part(Part::Generator)));
        let generator = match path {
            None => None,
            Some(path) if path.is_dir() => Some((path.clone(), config(&path)?)),
            Some(path) => {
                let config = own.clone().map_or_else(|| config(&folder.need(Part::UNet)?), Ok)?;
                Some((path, config))
            }
        };
        let mut misfits = Misfits::default();
        let configs = [("UNet", own.as_ref()), ("generator", generator.as_ref().map(|(_, c)| c))];
        for (name, config) in configs {
            if let Some(config) = config {
                misfits.pixel_unet(name, config);
            }
        }
        if let (Some(own), Some((_, generator))) = (&own, &generator) {
            misfits.same("classes", ("the UNet", own.classes()), ("the generator", generator.classes()));
        }
        let classes = own.as_ref().or(generator.as_ref().map(|(_, c)| c)).map_or(0, ClassUNetConfig::classes);
        let names = class_names(&folder, classes)?;
        misfits.same("classes", ("the UNet", classes), ("classes.json", names.len()));
        let reasons = misfits.into_reasons();
        if !reasons.is_empty() {
            return Err(Error::Misfit { folder: options.model.clone(), reasons });
        }
        let recipe = generator.as_ref().map(|(path, _)| Recipe::beside(path, &noising)).transpose()?;
        Ok(Self { folder, unet: own, generator, recipe, names, noising })
    }
}

/// The names of a model's classes: the list in `classes.json`, or their numbers.
fn class_names(folder: &ModelFolder, classes: usize) -> Result<Vec<String>, Error> {
    let path = folder.classes_file();
    if path.is_file() {
        return Ok(read_json(&path)?);
    }
    Ok((0..classes).map(|class| class.to_string()).collect())
}

impl Family for PixelClasses {
    type Condition = Classes;
    type Network = ClassDenoiser;
    type Config = ClassUNetConfig;
    type Conditioner = ClassConditioner;

    fn open(options: &OpenOptions) -> Result<Model<Self>, Error> {
        options.check_dtype()?;
        let parts = Parts::open(options)?;
        let device = &options.device;
        let prediction = parts.noising.prediction();
        let network = |unet: ClassUNet2d| match options.dtype {
            FloatDType::F32 => ClassDenoiser::new(unet, prediction),
            dtype => ClassDenoiser::new(unet, prediction).in_precision(dtype),
        };
        let (generator, teacher) = options.wanted(parts.generator.is_some(), parts.unet.is_some());
        let teacher = match &parts.unet {
            Some(config) if teacher => {
                let unet = ClassUNet2d::from_dir(&parts.folder.part(Part::UNet), device)?.0;
                Some((network(unet), config))
            }
            _ => None,
        };
        let generator = match &parts.generator {
            Some((path, config)) if generator => {
                let unet = match path.is_dir() {
                    true => ClassUNet2d::from_dir(path, device)?.0,
                    false => {
                        let file = dmd_weights::read(path)?;
                        dmd_weights::load(config.init(device)?, &file, &CLASS_UNET_KEYS)?
                    }
                };
                Some((network(unet), config))
            }
            _ => None,
        };
        let config = teacher.as_ref().map(|(_, config)| *config);
        let config = config.or(generator.as_ref().map(|(_, config)| *config));
        let Some(config) = config.cloned() else {
            return Err(no_network(options));
        };
        Ok(Model {
            conditioner: ClassConditioner::new(parts.names, device),
            shape: [config.in_channels, config.sample_size, config.sample_size],
            multiple: config.downsampling(),
            codec: Codec::identity(config.in_channels),
            config,
            teacher: teacher.map(|(network, _)| network),
            // An EDM model is not guided unless its generator's teacher was.
            guidance_scale: parts.recipe.as_ref().and_then(|recipe| recipe.guidance_scale).unwrap_or(1.0),
            generator: generator
                .zip(parts.recipe)
                .map(|((network, _), recipe)| Distilled::new(network, recipe, &parts.noising)),
            noising: parts.noising,
            device: device.clone(),
        })
    }

    fn prediction(network: &ClassDenoiser) -> Prediction {
        network.prediction()
    }

    fn with_critic(
        network: ClassDenoiser,
        config: &ClassUNetConfig,
        training: &Device,
    ) -> Result<ClassDenoiser, Error> {
        let [channels, side] = network.unet.bottleneck();
        Ok(network.with_critic(critic(channels, side, config.norm_num_groups, training)?))
    }

    fn with_loss(network: ClassDenoiser, loss: Prediction) -> Result<ClassDenoiser, Error> {
        if loss == network.prediction() {
            return Ok(network);
        }
        Err(Error::Setting {
            setting: format!("fake.loss = {loss:?}"),
            hint: "leave it out: an EDM model has a loss of its own".to_owned(),
        })
    }

    fn in_precision(network: ClassDenoiser, dtype: FloatDType) -> ClassDenoiser {
        network.in_precision(dtype)
    }

    fn with_weights(mut network: ClassDenoiser, file: &Path) -> Result<ClassDenoiser, Error> {
        let file = dmd_weights::read(file)?;
        network.unet = dmd_weights::load_for_training(network.unet, &file, &CLASS_UNET_KEYS)?;
        Ok(network)
    }

    fn write(
        folder: &Path,
        network: &ClassDenoiser,
        config: &ClassUNetConfig,
        precision: Precision,
    ) -> Result<(), Error> {
        write_json(&folder.join("config.json"), config)?;
        let path = folder.join("diffusion_pytorch_model.safetensors");
        Ok(dmd_weights::save(&network.unet, &path, &CLASS_UNET_KEYS, precision)?)
    }
}

impl Model<PixelClasses> {
    /// A teacher that was just trained.
    ///
    /// # Errors
    ///
    /// When an option of the schedule is not supported.
    pub fn of_teacher(
        teacher: ClassDenoiser,
        config: ClassUNetConfig,
        edm: EdmConfig,
        names: Vec<String>,
        device: &Device,
    ) -> Result<Self, Error> {
        Ok(Self {
            conditioner: ClassConditioner::new(names, device),
            teacher: Some(teacher),
            generator: None,
            guidance_scale: 1.0,
            noising: Noising::exploding(edm)?,
            codec: Codec::identity(config.in_channels),
            shape: [config.in_channels, config.sample_size, config.sample_size],
            multiple: config.downsampling(),
            config,
            device: device.clone(),
        })
    }

    /// Writes the folder of a teacher: network, schedule and classes.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] without a teacher; otherwise when a file cannot be written.
    pub fn write_teacher(&self, model: &ModelFolder, precision: Precision) -> Result<(), Error> {
        PixelClasses::write(&model.part(Part::UNet), self.teacher()?, &self.config, precision)?;
        write_json(&model.classes_file(), &self.conditioner.names())?;
        if let Noising::Exploding { edm, .. } = &self.noising {
            write_json(&scheduler_file(&model.part(Part::Scheduler)), edm)?;
        }
        Ok(())
    }
}
