//! Class-conditional and unconditional EDM models on pixels, such as those for CIFAR-10 and ImageNet-64.
//!
//! A folder has `unet` (diffusers' `UNet2DModel`) and `scheduler` (`EDMEulerScheduler`). It may have `unet_one_step`,
//! and `classes.json` with the names of the classes. Without that file a class is named by its number.

use std::collections::BTreeSet;

use burn::tensor::Device;
use dmd_scheduler::EdmConfig;
use dmd_unet::{ClassDenoiser, ClassUNet2d, ClassUNetConfig, Network};
use dmd_weights::{Precision, read_json, write_json};

use crate::classes::ClassConditioner;
use crate::families::{Kind, Part};
use crate::family::Family;
use crate::fit::Misfits;
use crate::folder::{ModelFolder, scheduler_file};
use crate::loras::Loras;
use crate::networks::NetworkFiles;
use crate::source::Source;
use crate::{Codec, Error, Model, Noising, OpenOptions};

/// The family of class-conditional models on pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelClasses;

/// A model folder whose configurations were read and compared.
struct Parts {
    networks: NetworkFiles<ClassUNet2d>,
    names: Vec<String>,
    noising: Noising,
}

impl Parts {
    fn read(options: &OpenOptions) -> Result<Self, Error> {
        let source = Source::open(options)?;
        let folder = ModelFolder::new(source.path());
        if options.autoencoder.is_some() || !options.loras.is_empty() || !options.embeddings.is_empty() {
            return Err(Error::Setting {
                setting: "another autoencoder, a LoRA or an embedding (--vae, --lora, --embedding)"
                    .to_owned(),
                hint: "it draws pixels; these belong to Stable Diffusion".to_owned(),
            });
        }
        if options.tiny_autoencoder.is_some() || options.tile.is_some() {
            return Err(Error::Setting {
                setting: "a tiny autoencoder or a tile size (--taesd, --tile)".to_owned(),
                hint: "it draws pixels and has no autoencoder".to_owned(),
            });
        }
        let noising = PixelClasses::noising(&source)?;
        let networks = NetworkFiles::<ClassUNet2d>::read(&source, options, Kind::Classes, &noising)?;
        let classes = networks.sizes().first().map_or(0, |(_, sizes)| sizes.classes);
        Ok(Self { networks, names: class_names(&folder, classes)?, noising })
    }

    fn misfits(&self) -> Misfits {
        let sizes = self.networks.sizes();
        let mut misfits = Misfits::default();
        for (name, sizes) in &sizes {
            misfits.pixel_unet(name, *sizes);
        }
        misfits.networks(&sizes);
        if let Some((name, sizes)) = sizes.first() {
            misfits.same(
                "classes",
                (&format!("the {name}"), sizes.classes),
                ("classes.json", self.names.len()),
            );
        }
        misfits
    }
}

/// The names of a model's classes: the list in `classes.json` or, without that file, the numbers of the classes.
fn class_names(folder: &ModelFolder, classes: usize) -> Result<Vec<String>, Error> {
    let path = folder.classes_file();
    if dmd_weights::is_file(&path) {
        let names: Vec<String> = read_json(&path)?;
        let mut seen = BTreeSet::new();
        // The empty name means no class. Of two equal names, the second could never be chosen.
        if let Some(name) = names.iter().find(|name| name.is_empty() || !seen.insert(name.as_str())) {
            let reason = format!("classes.json names a class {name:?}, which is empty or stands there twice");
            return Err(Error::NoModel { folder: folder.path().to_owned(), reason });
        }
        return Ok(names);
    }
    Ok((0..classes).map(|class| class.to_string()).collect())
}

impl Family for PixelClasses {
    type Network = ClassUNet2d;
    type Conditioner = ClassConditioner;

    const DESCRIPTION: &'static str = "classes to pictures, on pixels";
    const PARTS: &'static [Part] = &[Part::UNet, Part::Generator, Part::Scheduler];

    fn noising(source: &Source) -> Result<Noising, Error> {
        Ok(Noising::exploding(source.scheduler()?))
    }

    fn misfits(options: &OpenOptions) -> Result<Vec<String>, Error> {
        Ok(Parts::read(options)?.misfits().into_reasons())
    }

    fn open(options: &OpenOptions) -> Result<Model<Self>, Error> {
        options.check_dtype()?;
        let parts = Parts::read(options)?;
        parts.misfits().refuse(&options.model)?;
        let (teacher, generator) = parts.networks.load(options, &parts.noising, &mut Loras::none())?;
        let config = parts.networks.config().cloned().ok_or(Error::NO_TEACHER)?;
        let notes = parts.networks.note(options).into_iter().collect();
        // An EDM model is guided only if its generator was distilled with guidance.
        let guidance_scale = parts.networks.recipe.and_then(|recipe| recipe.guidance_scale).unwrap_or(1.0);
        Ok(Model {
            conditioner: ClassConditioner::new(parts.names, &options.device),
            codec: Codec::identity(config.in_channels),
            config,
            teacher,
            generator,
            guidance_scale,
            noising: parts.noising,
            notes,
            device: options.device.clone(),
        })
    }
}

impl Model<PixelClasses> {
    /// Makes a model from a teacher that was just trained.
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
            noising: Noising::exploding(edm),
            codec: Codec::identity(config.in_channels),
            config,
            notes: Vec::new(),
            device: device.clone(),
        })
    }

    /// Writes a model folder with the teacher: network, schedule and classes.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] without a teacher; otherwise when a file cannot be written.
    pub fn write_teacher(&self, model: &ModelFolder, precision: Precision) -> Result<(), Error> {
        self.teacher()?.network.save(&self.config, &model.part(Part::UNet), precision)?;
        write_json(&model.classes_file(), &self.conditioner.names())?;
        if let Noising::Exploding { edm, .. } = &self.noising {
            write_json(&scheduler_file(&model.part(Part::Scheduler)), edm)?;
        }
        Ok(())
    }
}
