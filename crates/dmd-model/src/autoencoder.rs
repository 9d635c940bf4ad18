//! The autoencoder of a latent model: its own, or another full or tiny one that replaces it.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use dmd_unet::{AUTOENCODER_KEYS, Autoencoder, AutoencoderConfig, TinyAutoencoderConfig};
use dmd_weights::{Part as FilePart, Precision, is_dir, read_config, write_json};
use serde_json::Value;

use crate::families::Part;
use crate::fit::Misfits;
use crate::folder::ModelFolder;
use crate::source::{Source, of_file, of_folder};
use crate::{Codec, Error, OpenOptions};

/// The autoencoder that a model is opened with, and its configuration.
#[derive(Debug, Clone)]
pub enum AutoencoderFiles {
    /// A full autoencoder.
    Full {
        /// Its configuration.
        config: AutoencoderConfig,
        /// The folder or file of an autoencoder that replaces the model's own; `None` for the model's own.
        other: Option<PathBuf>,
    },
    /// A tiny autoencoder, which replaces the model's own.
    Tiny {
        /// Its folder.
        folder: PathBuf,
        /// Its configuration.
        config: TinyAutoencoderConfig,
    },
}

impl AutoencoderFiles {
    /// Reads the configuration of the autoencoder that the options choose.
    pub(crate) fn read(source: &Source, options: &OpenOptions) -> Result<Self, Error> {
        if let Some(path) = &options.tiny_autoencoder {
            if options.autoencoder.is_some() {
                return Err(Error::Setting {
                    setting: "two autoencoders (--vae and --taesd)".to_owned(),
                    hint: "name one".to_owned(),
                });
            }
            if options.tile.is_some() {
                return Err(Error::Setting {
                    setting: "tiles of a tiny autoencoder (--tile and --taesd)".to_owned(),
                    hint: "it needs none: leave one of them out".to_owned(),
                });
            }
            let config: TinyAutoencoderConfig = read_config(path)?;
            config.validate()?;
            return Ok(Self::Tiny { folder: path.clone(), config });
        }
        let own = || source.config::<AutoencoderConfig>(Part::Autoencoder);
        let config = match &options.autoencoder {
            Some(folder) if is_dir(folder) => {
                let mut other: AutoencoderConfig = read_config(folder)?;
                // The latents are those of the model's network. Another autoencoder must therefore use the scaling
                // factor of the model's own autoencoder.
                if source.published().is_some() || source.has(Part::Autoencoder) {
                    other.scaling_factor = own()?.scaling_factor;
                }
                other
            }
            _ => own()?,
        };
        config.validate()?;
        Ok(Self::Full { config, other: options.autoencoder.clone() })
    }

    /// Checks that the autoencoder has the colour channels of pictures. Returns its number of latent channels.
    pub(crate) fn compare(&self, misfits: &mut Misfits) -> usize {
        match self {
            Self::Full { config, .. } => {
                misfits.colours("autoencoder", config.in_channels, config.out_channels);
                config.latent_channels
            }
            Self::Tiny { config, .. } => {
                misfits.colours("tiny autoencoder", config.in_channels, config.out_channels);
                config.latent_channels
            }
        }
    }

    /// Whether intermediate values may exceed the range of f16 (`force_upcast`). As in diffusers, the default is true.
    pub(crate) fn must_upcast(&self) -> bool {
        match self {
            Self::Full { config, .. } => {
                config.other.get("force_upcast").and_then(Value::as_bool).unwrap_or(true)
            }
            Self::Tiny { .. } => false,
        }
    }

    /// Reads the weights and makes the codec.
    pub(crate) fn load_codec(&self, source: &Source, device: &Device) -> Result<Codec, Error> {
        match self {
            Self::Full { config, other } => {
                Ok(Codec::full(load_full(source, config, other.as_deref(), device)?, config))
            }
            Self::Tiny { folder, .. } => Codec::tiny(folder, device),
        }
    }

    /// Reads the autoencoder; `None` if a tiny autoencoder replaces it.
    pub(crate) fn load(&self, source: &Source, device: &Device) -> Result<Option<Autoencoder>, Error> {
        match self {
            Self::Full { config, other } => load_full(source, config, other.as_deref(), device).map(Some),
            Self::Tiny { .. } => Ok(None),
        }
    }
}

fn load_full(
    source: &Source,
    config: &AutoencoderConfig,
    other: Option<&Path>,
    device: &Device,
) -> Result<Autoencoder, Error> {
    let weights = match other {
        None => source.tensors(Part::Autoencoder)?,
        Some(folder) if is_dir(folder) => of_folder(folder)?,
        Some(file) => of_file(file, FilePart::Vae)?,
    };
    let network = dmd_weights::load(config.init(device)?, &weights, &AUTOENCODER_KEYS)?;
    // Drawing never uses the encoder, so its mapped pages need not stay in memory.
    weights.release();
    Ok(network)
}

/// Reads the autoencoder of a model folder.
///
/// # Errors
///
/// When a file is missing, damaged or does not fit.
pub fn read_autoencoder(
    model: &ModelFolder,
    device: &Device,
) -> Result<(Autoencoder, AutoencoderConfig), Error> {
    Ok(Autoencoder::from_dir(&model.need(Part::Autoencoder)?, device)?)
}

/// Writes the autoencoder's folder.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write_autoencoder(
    folder: &Path,
    network: &Autoencoder,
    config: &AutoencoderConfig,
    precision: Precision,
) -> Result<(), Error> {
    write_json(&folder.join("config.json"), config)?;
    let path = folder.join("diffusion_pytorch_model.safetensors");
    Ok(dmd_weights::save(network, &path, &AUTOENCODER_KEYS, precision)?)
}
