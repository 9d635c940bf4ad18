//! Stable Diffusion 1.x and 2.x: a latent UNet under CLIP's text features.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType, Tensor};
use dmd_clip::{CLIP_KEYS, ClipTextModel, TextConfig, TextEncoder, Tokenizer, Vocabulary};
use dmd_core::Prediction;
use dmd_scheduler::SchedulerConfig;
use dmd_unet::{
    AUTOENCODER_KEYS, Autoencoder, AutoencoderConfig, TinyAutoencoderConfig, UNET_KEYS, UNet2d, UNetConfig,
    UNetDenoiser,
};
use dmd_weights::{ModelIndex, Precision, read_config, write_json};
use serde_json::{Value, json};

use crate::family::Family;
use crate::fit::Misfits;
use crate::folder::{ModelFolder, Part, scheduler_file};
use crate::model::no_network;
use crate::text::TextConditioner;
use crate::{Codec, Distilled, Error, Model, Noising, OpenOptions, Recipe, critic};

/// The family of Stable Diffusion 1.x and 2.x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StableDiffusion;

/// Guidance where nobody names one: diffusers' default for Stable Diffusion.
const DEFAULT_GUIDANCE: f64 = 7.5;

/// A model folder whose configurations were read and compared. Its parts are read one by one, or all by
/// [`Family::open`].
#[derive(Debug, Clone)]
pub struct TextToImage {
    folder: ModelFolder,
    /// The text encoder's configuration.
    pub text: TextConfig,
    /// Prompts to tokens.
    pub tokenizer: Tokenizer,
    /// The teacher's configuration, where there is one.
    pub unet: Option<UNetConfig>,
    /// The generator's place and configuration, where there is one.
    pub generator: Option<(PathBuf, UNetConfig)>,
    /// The autoencoder's configuration, where it is read.
    pub autoencoder: Option<AutoencoderConfig>,
    /// The tiny autoencoder's place and configuration, where it is read.
    pub tiny_autoencoder: Option<(PathBuf, TinyAutoencoderConfig)>,
    /// How the generator is called, where there is one.
    pub recipe: Option<Recipe>,
    /// Noise schedule and samplers.
    pub noising: Noising,
}

impl TextToImage {
    /// Reads every configuration and compares the parts.
    ///
    /// # Errors
    ///
    /// When a configuration is missing, damaged or not supported; [`Error::Misfit`] when parts do not fit.
    pub fn open(options: &OpenOptions) -> Result<Self, Error> {
        let found = Self::read(options)?;
        let reasons = found.misfits();
        if reasons.is_empty() {
            return Ok(found);
        }
        Err(Error::Misfit { folder: options.model.clone(), reasons })
    }

    /// Reads every configuration without comparing the parts.
    ///
    /// # Errors
    ///
    /// When a configuration is missing, damaged or not supported.
    pub fn read(options: &OpenOptions) -> Result<Self, Error> {
        let folder = ModelFolder::open(&options.model)?;
        let noising = Noising::preserving(folder.scheduler::<SchedulerConfig>()?)?;
        let text: TextConfig = read_config(&folder.need(Part::TextEncoder)?)?;
        text.validate()?;
        let tokenizer = Tokenizer::from_dir(&folder.need(Part::Tokenizer)?, text.max_position_embeddings)?;
        let unet_config = |folder: &Path| -> Result<UNetConfig, Error> {
            let config: UNetConfig = read_config(folder)?;
            config.validate()?;
            Ok(config)
        };
        let own = folder.has(Part::UNet).then(|| unet_config(&folder.part(Part::UNet))).transpose()?;
        let path = options.generator.clone();
        let path = path.or(folder.has(Part::Generator).then(|| folder.part(Part::Generator)));
        let generator = match path {
            None => None,
            Some(path) if path.is_dir() => Some((path.clone(), unet_config(&path)?)),
            // A bare state dict has the teacher's architecture.
            Some(path) => {
                let config = own.clone().map_or_else(|| unet_config(&folder.need(Part::UNet)?), Ok)?;
                Some((path, config))
            }
        };
        let (mut autoencoder, mut tiny_autoencoder) = (None, None);
        match &options.tiny_autoencoder {
            Some(path) => {
                let config: TinyAutoencoderConfig = read_config(path)?;
                config.validate()?;
                tiny_autoencoder = Some((path.clone(), config));
            }
            None => {
                let config: AutoencoderConfig = read_config(&folder.need(Part::Autoencoder)?)?;
                config.validate()?;
                autoencoder = Some(config);
            }
        }
        let recipe = generator.as_ref().map(|(path, _)| Recipe::beside(path, &noising)).transpose()?;
        Ok(Self {
            folder,
            text,
            tokenizer,
            unet: own,
            generator,
            autoencoder,
            tiny_autoencoder,
            recipe,
            noising,
        })
    }

    /// Why parts do not belong together, a sentence each; empty for a good model.
    pub fn misfits(&self) -> Vec<String> {
        let mut misfits = Misfits::default();
        misfits.tokenizer(&self.tokenizer, &self.text);
        let latents = match (&self.autoencoder, &self.tiny_autoencoder) {
            (Some(config), _) => {
                misfits.colours("autoencoder", config.in_channels, config.out_channels);
                config.latent_channels
            }
            (None, Some((_, config))) => {
                misfits.colours("tiny autoencoder", config.in_channels, config.out_channels);
                config.latent_channels
            }
            (None, None) => return misfits.into_reasons(),
        };
        let unets = [("UNet", self.unet.as_ref()), ("generator", self.generator.as_ref().map(|(_, c)| c))];
        for (name, config) in unets {
            if let Some(config) = config {
                misfits.text_unet(name, config, latents, self.text.hidden_size);
            }
        }
        misfits.into_reasons()
    }

    fn guidance_scale(&self) -> f64 {
        self.recipe.as_ref().and_then(|recipe| recipe.guidance_scale).unwrap_or(DEFAULT_GUIDANCE)
    }

    /// The configuration of the network that is called: the teacher's, or the generator's where there is no teacher.
    pub fn network(&self) -> Option<&UNetConfig> {
        self.unet.as_ref().or(self.generator.as_ref().map(|(_, config)| config))
    }

    /// Reads the text encoder.
    ///
    /// # Errors
    ///
    /// When its weights are missing, damaged or do not fit.
    pub fn load_text(&self, device: &Device) -> Result<ClipTextModel, Error> {
        Ok(ClipTextModel::from_dir(&self.folder.part(Part::TextEncoder), device)?.0)
    }

    /// Reads the teacher's network; `None` where the folder has none.
    ///
    /// # Errors
    ///
    /// As [`Self::load_text`].
    pub fn load_unet(&self, device: &Device) -> Result<Option<UNet2d>, Error> {
        if self.unet.is_none() {
            return Ok(None);
        }
        Ok(Some(UNet2d::from_dir(&self.folder.part(Part::UNet), device)?.0))
    }

    /// Reads the generator's network; `None` where there is no generator.
    ///
    /// # Errors
    ///
    /// As [`Self::load_text`].
    pub fn load_generator(&self, device: &Device) -> Result<Option<UNet2d>, Error> {
        let Some((path, config)) = &self.generator else { return Ok(None) };
        Ok(Some(match path.is_dir() {
            true => UNet2d::from_dir(path, device)?.0,
            false => UNet2d::from_file(path, config, device)?,
        }))
    }

    /// Reads the autoencoder; `None` where a tiny one takes its place.
    ///
    /// # Errors
    ///
    /// As [`Self::load_text`].
    pub fn load_autoencoder(&self, device: &Device) -> Result<Option<Autoencoder>, Error> {
        if self.autoencoder.is_none() {
            return Ok(None);
        }
        Ok(Some(Autoencoder::from_dir(&self.folder.part(Part::Autoencoder), device)?.0))
    }

    fn load_codec(&self, device: &Device) -> Result<Codec, Error> {
        if let Some((path, _)) = &self.tiny_autoencoder {
            return Codec::tiny(path, device);
        }
        match (self.load_autoencoder(device)?, &self.autoencoder) {
            (Some(network), Some(config)) => Ok(Codec::full(network, config)),
            _ => Err(Error::Missing { wanted: "autoencoder", hint: "the folder vae holds it" }),
        }
    }
}

impl Family for StableDiffusion {
    type Condition = Tensor<3>;
    type Network = UNetDenoiser;
    type Config = UNetConfig;
    type Conditioner = TextConditioner;

    fn open(options: &OpenOptions) -> Result<Model<Self>, Error> {
        options.check_dtype()?;
        let parts = TextToImage::open(options)?;
        let device = &options.device;
        let (generator, teacher) = options.wanted(parts.generator.is_some(), parts.unet.is_some());
        let prediction = parts.noising.prediction();
        let network = |unet: UNet2d| match options.dtype {
            FloatDType::F32 => UNetDenoiser::new(unet, prediction),
            dtype => UNetDenoiser::new(unet, prediction).in_precision(dtype),
        };
        let generator = if generator { parts.load_generator(device)? } else { None };
        let teacher = if teacher { parts.load_unet(device)? } else { None };
        let config = match (&parts.unet, &parts.generator) {
            (Some(config), _) if teacher.is_some() => config,
            (_, Some((_, config))) if generator.is_some() => config,
            _ => {
                return Err(no_network(options));
            }
        };
        let mut codec = parts.load_codec(device)?.in_precision(options.dtype);
        if let Some(side) = options.tile {
            codec = codec.with_tiles(side)?;
        }
        let text = TextEncoder::new(parts.tokenizer.clone(), parts.load_text(device)?, device);
        Ok(Model {
            conditioner: TextConditioner::new(text, parts.text.hidden_size, device),
            shape: [config.in_channels, config.sample_size, config.sample_size],
            multiple: config.downsampling(),
            config: config.clone(),
            teacher: teacher.map(network),
            guidance_scale: parts.guidance_scale(),
            generator: generator
                .zip(parts.recipe)
                .map(|(unet, recipe)| Distilled::new(network(unet), recipe, &parts.noising)),
            noising: parts.noising,
            codec,
            device: device.clone(),
        })
    }

    fn prediction(network: &UNetDenoiser) -> Prediction {
        network.prediction()
    }

    fn with_critic(
        network: UNetDenoiser,
        config: &UNetConfig,
        training: &Device,
    ) -> Result<UNetDenoiser, Error> {
        let channels = config.block_out_channels.last().copied().unwrap_or(0);
        let side = config.sample_size / config.downsampling();
        Ok(network.with_critic(critic(channels, side, config.norm_num_groups, training)?))
    }

    fn with_loss(network: UNetDenoiser, loss: Prediction) -> Result<UNetDenoiser, Error> {
        Ok(network.with_loss(loss))
    }

    fn in_precision(network: UNetDenoiser, dtype: FloatDType) -> UNetDenoiser {
        network.in_precision(dtype)
    }

    fn with_weights(mut network: UNetDenoiser, file: &Path) -> Result<UNetDenoiser, Error> {
        network.unet = dmd_weights::load_for_training(network.unet, &dmd_weights::read(file)?, &UNET_KEYS)?;
        Ok(network)
    }

    fn write(
        folder: &Path,
        network: &UNetDenoiser,
        config: &UNetConfig,
        precision: Precision,
    ) -> Result<(), Error> {
        write_json(&folder.join("config.json"), config)?;
        let path = folder.join("diffusion_pytorch_model.safetensors");
        Ok(dmd_weights::save(&network.unet, &path, &UNET_KEYS, precision)?)
    }
}

/// Tokens per prompt, start and end included: CLIP's.
pub const MAX_TOKENS: usize = 77;

/// Writes the tokenizer's folder.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write_tokenizer(model: &ModelFolder, vocabulary: &Vocabulary) -> Result<(), Error> {
    Ok(vocabulary.save(&model.part(Part::Tokenizer), MAX_TOKENS)?)
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

/// Writes text encoder, UNet, scheduler and `model_index.json`: with tokenizer and autoencoder, a folder that
/// diffusers' `StableDiffusionPipeline` opens.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write_teacher(
    model: &ModelFolder,
    text: (&ClipTextModel, &TextConfig),
    unet: (&UNetDenoiser, &UNetConfig),
    precision: Precision,
) -> Result<(), Error> {
    let folder = model.part(Part::TextEncoder);
    write_json(&folder.join("config.json"), text.1)?;
    dmd_weights::save(text.0, &folder.join("model.safetensors"), &CLIP_KEYS, precision)?;
    StableDiffusion::write(&model.part(Part::UNet), unet.0, unet.1, precision)?;
    write_json(&scheduler_file(&model.part(Part::Scheduler)), &SchedulerConfig::stable_diffusion())?;
    Ok(write_json(&model.index_file(), &index())?)
}

fn index() -> ModelIndex {
    let component = |library: &str, class: &str| json!([library, class]);
    let nothing = json!([null, null]);
    let entries: [(&str, Value); 8] = [
        ("feature_extractor", nothing.clone()),
        ("requires_safety_checker", json!(false)),
        ("safety_checker", nothing),
        (Part::Scheduler.name(), component("diffusers", "DDIMScheduler")),
        (Part::TextEncoder.name(), component("transformers", "CLIPTextModel")),
        (Part::Tokenizer.name(), component("transformers", "CLIPTokenizer")),
        (Part::UNet.name(), component("diffusers", "UNet2DConditionModel")),
        (Part::Autoencoder.name(), component("diffusers", "AutoencoderKL")),
    ];
    ModelIndex {
        class_name: "StableDiffusionPipeline".to_owned(),
        entries: entries.map(|(key, value)| (key.to_owned(), value)).into(),
    }
}
