//! Stable Diffusion 1.x and 2.x: a UNet on latents, conditioned on CLIP's text features.

use burn::tensor::{Device, FloatDType, Tensor};
use dmd_clip::{CLIP_KEYS, ClipTextModel, TextConfig, TextEncoder, Tokenizer, Vocabulary, ids_tensor};
use dmd_scheduler::SchedulerConfig;
use dmd_unet::{Autoencoder, Network, UNet2d, UNetConfig};
use dmd_weights::{LoraPart, ModelIndex, Precision, write_json};
use serde_json::{Value, json};

use crate::autoencoder::AutoencoderFiles;
use crate::embeddings::Embeddings;
use crate::families::{Kind, Part};
use crate::family::{Family, TextFeatures};
use crate::fit::Misfits;
use crate::folder::{ModelFolder, scheduler_file};
use crate::loras::{Change, Loras};
use crate::networks::NetworkFiles;
use crate::source::Source;
use crate::text::TextConditioner;
use crate::text_parts::{TextParts, change_encoder, lists, load_encoder};
use crate::{Error, Model, Noising, OpenOptions};

/// The family of Stable Diffusion 1.x and 2.x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StableDiffusion;

/// Default guidance scale: diffusers' default for Stable Diffusion.
const DEFAULT_GUIDANCE: f64 = 7.5;

/// A model whose configurations were read. Its parts are read one by one; [`Family::open`] reads all of them.
#[derive(Debug, Clone)]
pub struct TextToImage {
    source: Source,
    /// The text encoder's configuration.
    pub text: TextConfig,
    /// Converts prompts to tokens.
    pub tokenizer: Tokenizer,
    /// The files of teacher and generator.
    pub networks: NetworkFiles<UNet2d>,
    /// The autoencoder.
    pub autoencoder: AutoencoderFiles,
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
        found.compare().refuse(&options.model)?;
        Ok(found)
    }

    /// Reads every configuration without comparing the parts.
    ///
    /// # Errors
    ///
    /// When a configuration is missing, damaged or not supported.
    pub fn read(options: &OpenOptions) -> Result<Self, Error> {
        let source = Source::open(options)?;
        let noising = StableDiffusion::noising(&source)?;
        let text = source.text_config(Part::TextEncoder)?;
        let tokenizer = source.tokenizer(Part::Tokenizer, text.max_position_embeddings)?;
        let networks = NetworkFiles::read(&source, options, Kind::StableDiffusion, &noising)?;
        let autoencoder = AutoencoderFiles::read(&source, options)?;
        Ok(Self { source, text, tokenizer, networks, autoencoder, noising })
    }

    fn compare(&self) -> Misfits {
        let mut misfits = Misfits::default();
        misfits.tokenizer(&self.tokenizer, &self.text);
        let latents = self.autoencoder.compare(&mut misfits);
        let networks = self.networks.sizes();
        for (name, sizes) in &networks {
            misfits.text_unet(name, *sizes, latents, self.text.hidden_size);
        }
        misfits.networks(&networks);
        misfits
    }

    fn guidance_scale(&self) -> f64 {
        self.networks.recipe.as_ref().and_then(|recipe| recipe.guidance_scale).unwrap_or(DEFAULT_GUIDANCE)
    }

    /// Reads the text encoder.
    ///
    /// # Errors
    ///
    /// When its weights are missing, damaged or do not fit.
    pub fn load_text(&self, device: &Device) -> Result<ClipTextModel, Error> {
        self.load_text_with(&mut Loras::none(), FloatDType::F32, device)
    }

    fn load_text_with(
        &self,
        loras: &mut Loras,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<ClipTextModel, Error> {
        let weights = loras.merged(LoraPart::TextEncoder, self.source.tensors(Part::TextEncoder)?)?;
        load_encoder(self.text.init(device)?, &weights, &CLIP_KEYS, dtype)
    }
}

impl TextParts for TextToImage {
    type Network = UNet2d;

    fn networks(&self) -> &NetworkFiles<UNet2d> {
        &self.networks
    }

    fn autoencoder(&self) -> &AutoencoderFiles {
        &self.autoencoder
    }

    fn noising(&self) -> &Noising {
        &self.noising
    }

    fn text_encoders(&self) -> Vec<&TextConfig> {
        vec![&self.text]
    }

    fn pooled_width(&self) -> Option<usize> {
        None
    }

    fn load_features(&self, tokens: &[Vec<Vec<u32>>], device: &Device) -> Result<TextFeatures, Error> {
        let [tokens] = lists(tokens)?;
        Ok(self.load_text(device)?.forward(ids_tensor(tokens, device)).into())
    }

    fn condition(&self, features: TextFeatures, _: Option<Tensor<2>>) -> Result<Tensor<3>, Error> {
        Ok(features.words)
    }

    fn load_autoencoder(&self, device: &Device) -> Result<Option<Autoencoder>, Error> {
        self.autoencoder.load(&self.source, device)
    }
}

impl Family for StableDiffusion {
    type Network = UNet2d;
    type Conditioner = TextConditioner;

    const DESCRIPTION: &'static str = "Stable Diffusion, text to pictures";
    const PARTS: &'static [Part] = &[
        Part::Tokenizer,
        Part::TextEncoder,
        Part::UNet,
        Part::Generator,
        Part::Autoencoder,
        Part::Scheduler,
    ];

    fn noising(source: &Source) -> Result<Noising, Error> {
        Noising::stable_diffusion(source.scheduler()?)
    }

    fn misfits(options: &OpenOptions) -> Result<Vec<String>, Error> {
        Ok(TextToImage::read(options)?.compare().into_reasons())
    }

    fn open(options: &OpenOptions) -> Result<Model<Self>, Error> {
        options.check_dtype()?;
        let parts = TextToImage::open(options)?;
        let device = &options.device;
        let words = Embeddings::open(options, &[&parts.text])?;
        let tokenizer = words.taught(&parts.tokenizer)?;
        let mut loras = Loras::open(options)?;
        let (teacher, generator) = parts.networks.load(options, &parts.noising, &mut loras)?;
        let config = parts.networks.config().cloned().ok_or(Error::NO_TEACHER)?;
        let mut codec = parts.autoencoder.load_codec(&parts.source, device)?.in_precision(options.dtype);
        if let Some(side) = options.tile {
            codec = codec.with_tiles(side)?;
        }
        let mut text = parts.load_text_with(&mut loras, options.dtype, device)?;
        if let Some((first, rows)) = words.rows(0, &parts.tokenizer, device) {
            text = text.with_rows(first, rows);
        }
        let text = TextEncoder::new(tokenizer, text, device);
        let mut notes = parts.source.notes();
        notes.extend(parts.networks.note(options));
        notes.extend(loras.report()?);
        notes.extend(words.report());
        Ok(Model {
            conditioner: TextConditioner::new(text, parts.text.hidden_size),
            guidance_scale: parts.guidance_scale(),
            config,
            teacher,
            generator,
            noising: parts.noising,
            codec,
            notes,
            device: device.clone(),
        })
    }
}

impl StableDiffusion {
    /// See [`AnyModel::change_loras`](crate::AnyModel::change_loras); `options` name the new files.
    pub(crate) fn change_loras(
        model: &mut Model<Self>,
        mut change: Change,
        options: &OpenOptions,
    ) -> Result<(), Error> {
        let parts = TextToImage::open(options)?;
        let mut networks = (model.teacher.clone(), model.generator.clone());
        parts.networks.change(&mut networks.0, &mut networks.1, &mut change, options)?;
        let encoder = model.conditioner.encoder().model().clone();
        let weights = parts.source.tensors(Part::TextEncoder)?;
        let encoder =
            change_encoder(encoder, LoraPart::TextEncoder, weights, &CLIP_KEYS, &mut change, options.dtype)?;
        let mut notes = parts.source.notes();
        notes.extend(parts.networks.note(options));
        notes.extend(change.after.report()?);
        notes.extend(Embeddings::open(options, &[&parts.text])?.report());
        // Assigned last, so that an error above leaves the model unchanged.
        model.conditioner = model.conditioner.clone().with_model(encoder);
        (model.teacher, model.generator) = networks;
        model.notes = notes;
        Ok(())
    }
}

/// Number of tokens per prompt in CLIP, including the start and end tokens.
pub const MAX_TOKENS: usize = 77;

/// Reads the tokenizer of a model folder, for texts of `tokens` tokens.
///
/// # Errors
///
/// When its files are missing, damaged or not supported.
pub fn read_tokenizer(model: &ModelFolder, tokens: usize) -> Result<Tokenizer, Error> {
    Ok(Tokenizer::from_dir(&model.need(Part::Tokenizer)?, tokens)?)
}

/// Writes the tokenizer's folder.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write_tokenizer(model: &ModelFolder, vocabulary: &Vocabulary) -> Result<(), Error> {
    Ok(vocabulary.save(&model.part(Part::Tokenizer), MAX_TOKENS)?)
}

/// Writes text encoder, UNet, scheduler and `model_index.json`. Together with tokenizer and autoencoder they are a
/// folder that diffusers' `StableDiffusionPipeline` can open.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write_teacher(
    model: &ModelFolder,
    text: (&ClipTextModel, &TextConfig),
    unet: (&UNet2d, &UNetConfig),
    precision: Precision,
) -> Result<(), Error> {
    let folder = model.part(Part::TextEncoder);
    write_json(&folder.join("config.json"), text.1)?;
    dmd_weights::save(text.0, &folder.join("model.safetensors"), &CLIP_KEYS, precision)?;
    unet.0.save(unet.1, &model.part(Part::UNet), precision)?;
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
