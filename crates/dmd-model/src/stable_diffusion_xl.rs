//! Stable Diffusion XL: a UNet on latents, conditioned on the features of two text encoders and on the sizes of the
//! picture.

mod conditioner;

use std::sync::Arc;

use burn::tensor::{Device, FloatDType, Tensor};
use dmd_clip::{
    CLIP_KEYS, ClipTextModel, ProjectedTextEncoder, ProjectedTextModel, TextConfig, TextEncoder, Tokenizer,
    ids_tensor,
};
use dmd_unet::{Autoencoder, Network, XlCondition, XlUNet2d};
use dmd_weights::{KeyMap, LoraPart, Tensors};

use crate::autoencoder::AutoencoderFiles;
use crate::embeddings::Embeddings;
use crate::families::{Kind, Part};
use crate::family::Family;
use crate::fit::Misfits;
use crate::loras::{Change, Loras};
use crate::networks::NetworkFiles;
use crate::source::Source;
use crate::text_parts::{TextParts, change_encoder, lists, load_encoder};
use crate::{Error, Model, Noising, OpenOptions, TextFeatures};
use conditioner::LEFT_OUT;
pub use conditioner::XlConditioner;

/// The family of Stable Diffusion XL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StableDiffusionXl;

/// Default guidance scale: diffusers' default for Stable Diffusion XL.
const DEFAULT_GUIDANCE: f64 = 5.0;

/// The configuration of one text encoder, and its tokenizer.
#[derive(Debug, Clone)]
struct TextFiles {
    config: TextConfig,
    tokenizer: Tokenizer,
}

impl TextFiles {
    fn read(source: &Source, encoder: Part, tokenizer: Part) -> Result<Self, Error> {
        let config = source.text_config(encoder)?;
        let tokenizer = source.tokenizer(tokenizer, config.max_position_embeddings)?;
        Ok(Self { config, tokenizer })
    }
}

/// A model whose configurations were read. [`TextParts`] reads its parts one by one, [`Family::open`] reads all of
/// them.
#[derive(Debug, Clone)]
pub struct TextToImageXl {
    source: Source,
    first: TextFiles,
    second: TextFiles,
    networks: NetworkFiles<XlUNet2d>,
    autoencoder: AutoencoderFiles,
    noising: Noising,
    zeros: bool,
}

impl TextToImageXl {
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

    fn read(options: &OpenOptions) -> Result<Self, Error> {
        let source = Source::open(options)?;
        let noising = StableDiffusionXl::noising(&source)?;
        let first = TextFiles::read(&source, Part::TextEncoder, Part::Tokenizer)?;
        let second = TextFiles::read(&source, Part::TextEncoder2, Part::Tokenizer2)?;
        let networks = NetworkFiles::read(&source, options, Kind::StableDiffusionXl, &noising)?;
        let autoencoder = AutoencoderFiles::read(&source, options)?;
        let zeros = source.forces_zeros()?;
        Ok(Self { source, first, second, networks, autoencoder, noising, zeros })
    }

    fn compare(&self) -> Misfits {
        let mut misfits = Misfits::default();
        misfits.tokenizer(&self.first.tokenizer, &self.first.config);
        misfits.tokenizer(&self.second.tokenizer, &self.second.config);
        let tokens = |files: &TextFiles| files.tokenizer.max_tokens();
        misfits.same(
            "tokens per prompt",
            ("the first tokenizer", tokens(&self.first)),
            ("the second", tokens(&self.second)),
        );
        let latents = self.autoencoder.compare(&mut misfits);
        let width = self.first.config.hidden_size + self.second.config.hidden_size;
        let networks = self.networks.sizes();
        for (name, sizes) in &networks {
            misfits.text_unet(name, *sizes, latents, width);
        }
        misfits.networks(&networks);
        if let (Some(config), Some(pooled)) = (self.networks.config(), self.second.config.projection_dim) {
            let (of_text, of_unet) = ("the second text encoder's projection", "the UNet's added embedding");
            misfits.same("features of a whole prompt", (of_text, pooled), (of_unet, config.pooled_width()));
        }
        misfits
    }

    fn load_first(
        &self,
        loras: &mut Loras,
        words: &Embeddings,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<(TextEncoder, Tensors), Error> {
        let TextFiles { config, tokenizer } = &self.first;
        let file = self.source.tensors(Part::TextEncoder)?;
        let weights = loras.merged(LoraPart::TextEncoder, file.clone())?;
        let mut network: ClipTextModel = load_encoder(config.init(device)?, &weights, &CLIP_KEYS, dtype)?;
        if let Some((from, rows)) = words.rows(0, tokenizer, device) {
            network = network.with_rows(from, rows);
        }
        Ok((TextEncoder::new(words.taught(tokenizer)?, network, device), file))
    }

    fn load_second(
        &self,
        loras: &mut Loras,
        words: &Embeddings,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<(ProjectedTextEncoder, Tensors), Error> {
        let TextFiles { config, tokenizer } = &self.second;
        let file = self.source.tensors(Part::TextEncoder2)?;
        let weights = loras.merged(LoraPart::TextEncoder2, file.clone())?;
        let network = ProjectedTextModel::init(config, device)?;
        let mut network = load_encoder(network, &weights, &KeyMap::default(), dtype)?;
        if let Some((from, rows)) = words.rows(1, tokenizer, device) {
            network = network.with_rows(from, rows);
        }
        Ok((ProjectedTextEncoder::new(words.taught(tokenizer)?, network, config, device), file))
    }

    fn load_conditioner(
        &self,
        loras: &mut Loras,
        words: &Embeddings,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<XlConditioner, Error> {
        let Self { first, second, .. } = self;
        let (one, first_file) = self.load_first(loras, words, dtype, device)?;
        let (two, second_file) = self.load_second(loras, words, dtype, device)?;
        let files = [first_file, second_file];
        files.iter().for_each(Tensors::release);
        Ok(XlConditioner {
            one,
            two,
            width: first.config.hidden_size + second.config.hidden_size,
            pooled: second.config.projection_dim.unwrap_or(0),
            zeros: self.zeros,
            picture: (0, 0),
            files,
            device: device.clone(),
            kept: Arc::default(),
        })
    }
}

impl TextParts for TextToImageXl {
    type Network = XlUNet2d;

    fn networks(&self) -> &NetworkFiles<XlUNet2d> {
        &self.networks
    }

    fn autoencoder(&self) -> &AutoencoderFiles {
        &self.autoencoder
    }

    fn noising(&self) -> &Noising {
        &self.noising
    }

    fn text_encoders(&self) -> Vec<&TextConfig> {
        vec![&self.first.config, &self.second.config]
    }

    fn pooled_width(&self) -> Option<usize> {
        self.second.config.projection_dim
    }

    fn load_features(&self, tokens: &[Vec<Vec<u32>>], device: &Device) -> Result<TextFeatures, Error> {
        let [first, second] = lists(tokens)?;
        let (loras, none) = (&mut Loras::none(), &Embeddings::none());
        let (encoder, _) = self.load_first(loras, none, FloatDType::F32, device)?;
        let words = encoder.model().hidden(ids_tensor(first, device), LEFT_OUT);
        drop(encoder);
        let (encoder, _) = self.load_second(loras, none, FloatDType::F32, device)?;
        let text = encoder.encode_tokens(second, LEFT_OUT);
        Ok(TextFeatures { words: Tensor::cat(vec![words, text.hidden], 2), pooled: Some(text.pooled) })
    }

    fn condition(&self, features: TextFeatures, sizes: Option<Tensor<2>>) -> Result<XlCondition, Error> {
        let TextFeatures { words: text, pooled } = features;
        let (Some(pooled), Some(sizes)) = (pooled, sizes) else {
            return Err(Error::Setting {
                setting: "a condition of words alone".to_owned(),
                hint: "it takes features of the whole prompt and the picture's sizes too".to_owned(),
            });
        };
        Ok(XlCondition { text, pooled, sizes })
    }

    fn load_autoencoder(&self, device: &Device) -> Result<Option<Autoencoder>, Error> {
        self.autoencoder.load(&self.source, device)
    }
}

impl Family for StableDiffusionXl {
    type Network = XlUNet2d;
    type Conditioner = XlConditioner;

    const DESCRIPTION: &'static str = "Stable Diffusion XL, text to pictures";
    const PARTS: &'static [Part] = &Part::ALL;

    fn noising(source: &Source) -> Result<Noising, Error> {
        Ok(Noising::preserving(source.scheduler()?))
    }

    fn misfits(options: &OpenOptions) -> Result<Vec<String>, Error> {
        Ok(TextToImageXl::read(options)?.compare().into_reasons())
    }

    fn open(options: &OpenOptions) -> Result<Model<Self>, Error> {
        options.check_dtype()?;
        let files = TextToImageXl::open(options)?;
        let device = &options.device;
        let words = Embeddings::open(options, &[&files.first.config, &files.second.config])?;
        // A word that cannot be added to a tokenizer is refused before any weights are read.
        words.taught(&files.first.tokenizer)?;
        words.taught(&files.second.tokenizer)?;
        let mut loras = Loras::open(options)?;
        let (teacher, generator) = files.networks.load(options, &files.noising, &mut loras)?;
        let config = files.networks.config().cloned().ok_or(Error::NO_TEACHER)?;
        let mut codec = files.autoencoder.load_codec(&files.source, device)?;
        // The decoder's values may exceed the range of f16. As in diffusers, the autoencoder then stays in single
        // precision.
        if options.dtype != FloatDType::F16 || !files.autoencoder.must_upcast() {
            codec = codec.in_precision(options.dtype);
        }
        if let Some(side) = options.tile {
            codec = codec.with_tiles(side)?;
        }
        let mut conditioner = files.load_conditioner(&mut loras, &words, options.dtype, device)?;
        let side = XlUNet2d::sizes(&config).sample_size * codec.factor();
        conditioner.picture = (side, side);
        let recipe = files.networks.recipe.as_ref();
        let mut notes = files.source.notes();
        notes.extend(files.networks.note(options));
        notes.extend(loras.report()?);
        notes.extend(words.report());
        Ok(Model {
            conditioner,
            guidance_scale: recipe.and_then(|recipe| recipe.guidance_scale).unwrap_or(DEFAULT_GUIDANCE),
            config,
            teacher,
            generator,
            noising: files.noising,
            codec,
            notes,
            device: device.clone(),
        })
    }
}

impl StableDiffusionXl {
    /// See [`AnyModel::change_loras`](crate::AnyModel::change_loras); `options` name the new files.
    pub(crate) fn change_loras(
        model: &mut Model<Self>,
        mut change: Change,
        options: &OpenOptions,
    ) -> Result<(), Error> {
        let files = TextToImageXl::open(options)?;
        let dtype = options.dtype;
        let mut networks = (model.teacher.clone(), model.generator.clone());
        files.networks.change(&mut networks.0, &mut networks.1, &mut change, options)?;
        let XlConditioner { one, two, files: [first, second], .. } = &model.conditioner;
        let (one, part) = (one.model().clone(), LoraPart::TextEncoder);
        let one = change_encoder(one, part, first.clone(), &CLIP_KEYS, &mut change, dtype)?;
        let (two, part, keys) = (two.model().clone(), LoraPart::TextEncoder2, KeyMap::default());
        let two = change_encoder(two, part, second.clone(), &keys, &mut change, dtype)?;
        let mut notes = files.source.notes();
        notes.extend(files.networks.note(options));
        notes.extend(change.after.report()?);
        notes.extend(Embeddings::open(options, &[&files.first.config, &files.second.config])?.report());
        // Assigned last, so that an error above leaves the model unchanged.
        model.conditioner = model.conditioner.clone().with_models(one, two);
        (model.teacher, model.generator) = networks;
        model.notes = notes;
        Ok(())
    }
}
