//! Stable Diffusion XL: a latent UNet under two text encoders, told the sizes of the picture.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use dmd_clip::{
    CLIP_KEYS, ClipTextModel, ProjectedTextEncoder, ProjectedTextModel, TextConfig, TextEncoder, Tokenizer,
    ids_tensor,
};
use dmd_core::Condition;
use dmd_unet::{Autoencoder, Network, XlCondition, XlUNet2d};
use dmd_weights::{KeyMap, LoraPart};

use crate::autoencoder::AutoencoderFiles;
use crate::families::{Kind, Part};
use crate::family::{Conditioner, Family, SizeConditions, TextFeatures};
use crate::fit::Misfits;
use crate::loras::Loras;
use crate::networks::NetworkFiles;
use crate::source::Source;
use crate::text_parts::{TextParts, lists};
use crate::{Error, Model, Noising, OpenOptions};

/// The family of Stable Diffusion XL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StableDiffusionXl;

/// Guidance where nobody names one: diffusers' default for Stable Diffusion XL.
const DEFAULT_GUIDANCE: f64 = 5.0;

/// Layers that are left out for the features of the words.
const LEFT_OUT: usize = 1;

/// Most bytes of features that are kept.
const KEPT: usize = 1 << 30;

/// One text encoder's folder whose configuration was read.
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

/// A model folder whose configurations were read. Its parts are read one by one by [`TextParts`], or all by
/// [`Family::open`].
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

    fn load_first(&self, loras: &mut Loras, device: &Device) -> Result<TextEncoder, Error> {
        let weights = loras.merged(LoraPart::TextEncoder, self.source.tensors(Part::TextEncoder)?)?;
        let network: ClipTextModel =
            dmd_weights::load(self.first.config.init(device)?, &weights, &CLIP_KEYS)?;
        Ok(TextEncoder::new(self.first.tokenizer.clone(), network, device))
    }

    fn load_second(&self, loras: &mut Loras, device: &Device) -> Result<ProjectedTextEncoder, Error> {
        let TextFiles { config, tokenizer } = &self.second;
        let weights = loras.merged(LoraPart::TextEncoder2, self.source.tensors(Part::TextEncoder2)?)?;
        let network = ProjectedTextModel::init(config, device)?;
        let network = dmd_weights::load(network, &weights, &KeyMap::default())?;
        Ok(ProjectedTextEncoder::new(tokenizer.clone(), network, config, device))
    }

    fn load_conditioner(&self, loras: &mut Loras, device: &Device) -> Result<XlConditioner, Error> {
        let Self { first, second, .. } = self;
        let one = self.load_first(loras, device)?;
        let two = self.load_second(loras, device)?;
        Ok(XlConditioner {
            one,
            two,
            width: first.config.hidden_size + second.config.hidden_size,
            pooled: second.config.projection_dim.unwrap_or(0),
            zeros: self.zeros,
            picture: (0, 0),
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
        let loras = &mut Loras::none();
        let words = self.load_first(loras, device)?.model().hidden(ids_tensor(first, device), LEFT_OUT);
        let text = self.load_second(loras, device)?.encode_tokens(second, LEFT_OUT);
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
        let mut loras = Loras::open(options)?;
        let (teacher, generator) = files.networks.load(options, &files.noising, &mut loras)?;
        let config = files.networks.config().cloned().ok_or(Error::NO_TEACHER)?;
        let mut codec = files.autoencoder.load_codec(&files.source, device)?;
        // The decoder's values exceed what f16 holds: as in diffusers, it stays in single precision.
        if options.dtype != FloatDType::F16 || !files.autoencoder.must_upcast() {
            codec = codec.in_precision(options.dtype);
        }
        if let Some(side) = options.tile {
            codec = codec.with_tiles(side)?;
        }
        let mut conditioner = files.load_conditioner(&mut loras, device)?;
        let side = XlUNet2d::sizes(&config).sample_size * codec.factor();
        conditioner.picture = (side, side);
        let recipe = files.networks.recipe.as_ref();
        let mut notes = files.source.notes();
        notes.extend(loras.report()?);
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

/// Prompts to what Stable Diffusion XL is conditioned on, by two frozen text encoders.
#[derive(Debug, Clone)]
pub struct XlConditioner {
    one: TextEncoder,
    two: ProjectedTextEncoder,
    /// Width of the joined features of the words.
    width: usize,
    /// Width of the features of the whole prompt.
    pooled: usize,
    /// Whether guidance without a negative prompt points away from zeros, and not from the empty prompt.
    zeros: bool,
    /// Height and width of the pictures that the model was trained on.
    picture: (usize, usize),
    device: Device,
    /// Conditions by caption, on the host, see [`Conditioner::remembered`].
    kept: Arc<Mutex<HashMap<String, (TensorData, TensorData)>>>,
}

impl XlConditioner {
    /// The sizes of a picture as rows of the condition.
    fn rows(&self, sizes: &SizeConditions, count: usize) -> Tensor<2> {
        let row = sizes.numbers();
        let values: Vec<f32> = std::iter::repeat_n(row, count).flatten().collect();
        Tensor::from_data(TensorData::new(values, [count, row.len()]), &self.device)
    }

    fn told(&self, text: Tensor<3>, pooled: Tensor<2>) -> XlCondition {
        let [count, ..] = text.dims();
        let sizes = self.rows(&SizeConditions::of_picture(self.picture), count);
        XlCondition { text, pooled, sizes }
    }

    fn encode(&self, prompts: &[&str], left_out: usize) -> Result<(Tensor<3>, Tensor<2>), Error> {
        let layers = self.one.model().layers().min(self.two.layers());
        if left_out > layers {
            let hint = format!("the text encoders have {layers} layers, and {LEFT_OUT} is always left out");
            return Err(Error::Setting { setting: format!("clip skip {}", left_out - LEFT_OUT), hint });
        }
        let words = self.one.hidden(prompts, left_out)?;
        let text = self.two.encode(prompts, left_out)?;
        Ok((Tensor::cat(vec![words, text.hidden], 2), text.pooled))
    }
}

impl Conditioner for XlConditioner {
    type Condition = XlCondition;

    const IS_TOLD_SIZES: bool = true;

    fn check(&self, prompt: &str) -> Result<(), Error> {
        self.one.tokenizer().encode(prompt)?;
        self.two.tokenizer().encode(prompt)?;
        Ok(())
    }

    fn condition(&self, prompts: &[&str]) -> Result<XlCondition, Error> {
        self.condition_skipping(prompts, 0)
    }

    fn condition_skipping(&self, prompts: &[&str], layers: usize) -> Result<XlCondition, Error> {
        let (text, pooled) = self.encode(prompts, LEFT_OUT + layers)?;
        Ok(self.told(text, pooled))
    }

    fn unconditional(&self) -> Result<XlCondition, Error> {
        if !self.zeros {
            return self.condition(&[""]);
        }
        let tokens = self.one.tokenizer().max_tokens();
        let text = Tensor::zeros([1, tokens, self.width], &self.device);
        Ok(self.told(text, Tensor::zeros([1, self.pooled], &self.device)))
    }

    fn sized(&self, condition: XlCondition, sizes: &SizeConditions) -> XlCondition {
        let [count, ..] = condition.text.dims();
        XlCondition { sizes: self.rows(sizes, count), ..condition }
    }

    fn remembered(&self, captions: &[&str]) -> Result<XlCondition, Error> {
        let of = |caption: &&str| -> Result<XlCondition, Error> {
            let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((text, pooled)) = kept().get(*caption) {
                let text = Tensor::from_data(text.clone(), &self.device);
                return Ok(self.told(text, Tensor::from_data(pooled.clone(), &self.device)));
            }
            let (text, pooled) = self.encode(&[*caption], LEFT_OUT)?;
            let data = (text.clone().into_data(), pooled.clone().into_data());
            let bytes = (data.0.num_elements() + data.1.num_elements()) * size_of::<f32>();
            let mut kept = kept();
            if (kept.len() + 1) * bytes <= KEPT {
                kept.insert((*caption).to_owned(), data);
            }
            Ok(self.told(text, pooled))
        };
        let rows = captions.iter().map(of).collect::<Result<Vec<_>, _>>()?;
        let joined = rows.into_iter().reduce(|all, row| all.cat(&row));
        joined.map_or_else(|| self.condition(captions), Ok)
    }

    fn text_features(&self, prompts: &[&str]) -> Result<TextFeatures, Error> {
        let (words, pooled) = self.encode(prompts, LEFT_OUT)?;
        Ok(TextFeatures { words, pooled: Some(pooled) })
    }

    fn features(&self, features: TextFeatures) -> Result<XlCondition, Error> {
        let [rows, tokens, width] = features.words.dims();
        let most = self.one.tokenizer().max_tokens();
        let pooled = features.pooled.filter(|pooled| pooled.dims() == [rows, self.pooled]);
        match pooled {
            Some(pooled) if width == self.width && (1..=most).contains(&tokens) => {
                Ok(self.told(features.words, pooled))
            }
            pooled => Err(Error::Setting {
                setting: match pooled {
                    Some(_) => format!("features of {tokens} tokens, {width} wide"),
                    None => "features without fitting ones of the whole prompt".to_owned(),
                },
                hint: format!(
                    "it takes 1 to {most} tokens, {} wide, and {} numbers of the whole prompt",
                    self.width, self.pooled
                ),
            }),
        }
    }

    fn max_tokens(&self) -> Option<usize> {
        Some(self.one.tokenizer().max_tokens())
    }

    fn is_finite(condition: &XlCondition) -> bool {
        // A sum is finite only if every term is.
        let sum = condition.text.clone().abs().sum() + condition.pooled.clone().abs().sum();
        sum.into_scalar::<f32>().is_finite()
    }

    fn tokens(&self, caption: &str) -> Result<Option<(usize, usize)>, Error> {
        let count = |tokenizer: &Tokenizer| tokenizer.tokens(caption).map(|tokens| tokens.len());
        let found = count(self.one.tokenizer())?.max(count(self.two.tokenizer())?);
        Ok(Some((found, self.one.tokenizer().max_tokens())))
    }
}
