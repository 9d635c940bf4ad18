//! The source of a model's parts: a folder in diffusers' layout, or a single file. A single file uses the
//! configurations of the published model of its family, or those of another model folder.

mod files;

use std::path::{Path, PathBuf};

use dmd_clip::{TextConfig, Tokenizer};
use dmd_weights::{Checkpoint, is_file, read, read_config, read_json};
use dmd_weights::{Family as FileFamily, Part as FilePart, Tensors};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::builtin::Published;
use crate::families::Part;
use crate::folder::ModelFolder;
use crate::{Error, OpenOptions};
use files::predicts_velocity;
pub(crate) use files::{of_file, of_folder, of_generator};

/// The source of a model's parts.
#[derive(Debug, Clone)]
pub struct Source(Place);

#[derive(Debug, Clone)]
enum Place {
    Folder(ModelFolder),
    File(Box<SingleFile>),
}

/// A single file that holds a whole model, or some parts of one.
#[derive(Debug, Clone)]
struct SingleFile {
    path: PathBuf,
    checkpoint: Checkpoint,
    family: Published,
    /// The model folder from which configurations, tokenizers and missing parts are taken.
    beside: Option<ModelFolder>,
}

/// The entries of `model_index.json` that change what is drawn.
#[derive(Deserialize)]
struct Index {
    #[serde(default = "yes")]
    force_zeros_for_empty_prompt: bool,
}

fn yes() -> bool {
    true
}

impl From<ModelFolder> for Source {
    fn from(folder: ModelFolder) -> Self {
        Self(Place::Folder(folder))
    }
}

impl Source {
    /// Opens the model that the options name. Reads no weights.
    ///
    /// # Errors
    ///
    /// [`Error::NoModel`] when the path does not look like a model; for a single file also the errors of
    /// [`Checkpoint::open`].
    pub fn open(options: &OpenOptions) -> Result<Self, Error> {
        let path = &options.model;
        if !is_file(path) {
            if options.config.is_some() {
                return Err(Error::Setting {
                    setting: "configurations of another model (--config)".to_owned(),
                    hint: "they belong to a single file; a folder has its own".to_owned(),
                });
            }
            return Ok(ModelFolder::open(path)?.into());
        }
        let checkpoint = Checkpoint::open(read(path)?)?;
        let beside = options.config.as_deref().map(ModelFolder::open).transpose()?;
        let family = match checkpoint.family() {
            Some(FileFamily::StableDiffusion1) => Published::One,
            Some(FileFamily::StableDiffusion2) => Published::Two {
                velocity: checkpoint.v_prediction().map_or_else(|| predicts_velocity(&checkpoint), Ok)?,
            },
            Some(FileFamily::StableDiffusionXl) => Published::Xl {
                velocity: checkpoint.v_prediction().unwrap_or(false),
                zero_snr: checkpoint.zero_terminal_snr(),
            },
            None => {
                let reason =
                    "it holds a part of a model without a UNet: give it as --vae, beside a model".to_owned();
                return Err(Error::NoModel { folder: path.clone(), reason });
            }
        };
        Ok(Self(Place::File(Box::new(SingleFile { path: path.clone(), checkpoint, family, beside }))))
    }

    /// The path of the model.
    pub fn path(&self) -> &Path {
        match &self.0 {
            Place::Folder(folder) => folder.path(),
            Place::File(file) => &file.path,
        }
    }

    /// The model folder; `None` for a single file.
    pub(crate) fn folder(&self) -> Option<&ModelFolder> {
        match &self.0 {
            Place::Folder(folder) => Some(folder),
            Place::File(_) => None,
        }
    }

    /// The family of a single file; `None` for a folder.
    pub(crate) fn published(&self) -> Option<Published> {
        match &self.0 {
            Place::Folder(_) => None,
            Place::File(file) => Some(file.family),
        }
    }

    /// Whether the source has a part.
    pub fn has(&self, part: Part) -> bool {
        match &self.0 {
            Place::Folder(folder) => folder.has(part),
            // The generator in `beside` belongs to another model.
            Place::File(_) if part == Part::Generator => false,
            Place::File(file) => {
                file.part(part).is_some() || file.beside.as_ref().is_some_and(|b| b.has(part))
            }
        }
    }

    /// Reads the configuration of a part.
    ///
    /// # Errors
    ///
    /// When the part is missing, or its configuration cannot be read.
    pub(crate) fn config<T: DeserializeOwned>(&self, part: Part) -> Result<T, Error> {
        match &self.0 {
            Place::Folder(folder) => Ok(read_config(&folder.need(part)?)?),
            Place::File(file) => match &file.beside {
                Some(beside) => Ok(read_config(&beside.need(part)?)?),
                None => file.built_in(part),
            },
        }
    }

    /// Reads and checks the configuration of a text encoder.
    pub(crate) fn text_config(&self, part: Part) -> Result<TextConfig, Error> {
        let of = |folder: &ModelFolder| Ok(TextConfig::from_dir(&folder.need(part)?)?);
        let config = match &self.0 {
            Place::Folder(folder) => of(folder),
            Place::File(file) => file.beside.as_ref().map_or_else(|| file.built_in(part), of),
        }?;
        config.validate()?;
        Ok(config)
    }

    /// Reads `scheduler_config.json`.
    ///
    /// # Errors
    ///
    /// As [`Self::config`].
    pub(crate) fn scheduler<T: DeserializeOwned>(&self) -> Result<T, Error> {
        match &self.0 {
            Place::Folder(folder) => folder.scheduler(),
            Place::File(file) => match &file.beside {
                Some(beside) => file.own_prediction(beside.scheduler()?),
                None => file.built_in(Part::Scheduler),
            },
        }
    }

    /// Opens the weights of a part. Reads only headers.
    ///
    /// # Errors
    ///
    /// When the part is missing, or its file is damaged.
    pub(crate) fn tensors(&self, part: Part) -> Result<Tensors, Error> {
        let of = |folder: &ModelFolder| of_folder(&folder.need(part)?);
        match &self.0 {
            Place::Folder(folder) => of(folder),
            Place::File(file) => match (file.part(part), &file.beside) {
                (Some(found), _) => Ok(found),
                (None, Some(beside)) => of(beside),
                (None, None) => Err(Error::NoModel {
                    folder: file.path.clone(),
                    reason: format!(
                        "it has no {}; name a model folder that has one (--config FOLDER)",
                        part.description()
                    ),
                }),
            },
        }
    }

    /// Reads a tokenizer for a text encoder with `positions` positions.
    ///
    /// # Errors
    ///
    /// When its files are missing, damaged or not supported.
    pub(crate) fn tokenizer(&self, part: Part, positions: usize) -> Result<Tokenizer, Error> {
        let of = |folder: &ModelFolder| Ok(Tokenizer::from_dir(&folder.need(part)?, positions)?);
        match &self.0 {
            Place::Folder(folder) => of(folder),
            Place::File(file) => match (&file.beside, file.family.padding(part)) {
                (Some(beside), _) => of(beside),
                (None, Some(padding)) => Ok(Tokenizer::openai(padding, positions)),
                (None, None) => Err(Error::NoModel {
                    folder: file.path.clone(),
                    reason: format!("its family has no {}", part.name()),
                }),
            },
        }
    }

    /// The folder of a tokenizer; `None` for a single file without another model's folder.
    pub(crate) fn tokenizer_folder(&self, part: Part) -> Option<Result<PathBuf, Error>> {
        match &self.0 {
            Place::Folder(folder) => Some(folder.need(part)),
            Place::File(file) => file.beside.as_ref().map(|beside| beside.need(part)),
        }
    }

    /// Whether guidance without a negative prompt points away from zeros instead of the empty prompt. It does for SDXL,
    /// unless `model_index.json` says otherwise.
    pub(crate) fn forces_zeros(&self) -> Result<bool, Error> {
        let folder = match &self.0 {
            Place::Folder(folder) => Some(folder),
            Place::File(file) => file.beside.as_ref(),
        };
        match folder.map(ModelFolder::index_file).filter(|path| is_file(path)) {
            Some(path) => Ok(read_json::<Index>(&path)?.force_zeros_for_empty_prompt),
            None => Ok(true),
        }
    }

    /// Notes for the user about a single file, one sentence each.
    pub(crate) fn notes(&self) -> Vec<String> {
        let Place::File(file) = &self.0 else { return Vec::new() };
        let mut notes = Vec::new();
        let leftover = file.checkpoint.leftover();
        if let Some(first) = leftover.first() {
            notes
                .push(format!("{} tensors belong to no part and are not used: {first:?} ..", leftover.len()));
        }
        if let (None, None, Published::Two { velocity }) =
            (&file.beside, file.checkpoint.v_prediction(), file.family)
        {
            let what = if velocity { "the velocity, of 768 pixels" } else { "the noise, of 512 pixels" };
            notes.push(format!(
                "the file does not say what it predicts; by its weights it is a Stable Diffusion 2 that predicts {what}"
            ));
        }
        notes
    }
}

impl SingleFile {
    /// Changes another model's `scheduler_config.json` to what this file says itself: that it predicts the velocity, or
    /// that the schedule ends in pure noise.
    fn own_prediction<T: DeserializeOwned>(&self, mut config: Value) -> Result<T, Error> {
        if self.checkpoint.v_prediction() == Some(true) {
            config["prediction_type"] = "v_prediction".into();
        }
        if self.checkpoint.zero_terminal_snr() {
            config["rescale_betas_zero_snr"] = true.into();
            config["timestep_spacing"] = "trailing".into();
        }
        self.parsed(&config)
    }

    fn part(&self, part: Part) -> Option<Tensors> {
        self.checkpoint.part(match part {
            Part::UNet => FilePart::UNet,
            Part::Autoencoder => FilePart::Vae,
            Part::TextEncoder => FilePart::TextEncoder,
            Part::TextEncoder2 => FilePart::TextEncoder2,
            _ => return None,
        })
    }

    fn built_in<T: DeserializeOwned>(&self, part: Part) -> Result<T, Error> {
        let config = self.family.config(part).ok_or_else(|| Error::NoModel {
            folder: self.path.clone(),
            reason: format!("its family has no {}", part.name()),
        })?;
        self.parsed(&config)
    }

    /// Parses a configuration with the same checks as for the text of a file.
    fn parsed<T: DeserializeOwned>(&self, config: &Value) -> Result<T, Error> {
        dmd_weights::parse_json(&config.to_string()).map_err(|error| Error::NoModel {
            folder: self.path.clone(),
            reason: format!("the configuration of its family cannot be used: {error}"),
        })
    }
}
