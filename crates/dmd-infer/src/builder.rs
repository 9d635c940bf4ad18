use std::path::PathBuf;

use burn::tensor::{Device, FloatDType};
use dmd_model::{AnyModel, EmbeddingOption, LoraOption, Networks, OpenOptions, Recipe};

use crate::{Error, Pipeline};

/// Where a [`Pipeline`]'s parts come from; everything not named is looked for in the model folder.
#[derive(Debug, Clone)]
pub struct PipelineBuilder {
    options: OpenOptions,
    at_a_time: Option<usize>,
}

impl PipelineBuilder {
    pub(crate) fn new(model: PathBuf, device: &Device) -> Self {
        OpenOptions::new(model, device).into()
    }

    /// The generator in place of `unet_one_step` in the model folder: a diffusers UNet folder, or a bare state dict
    /// (`.safetensors`, or `.bin` with the feature `pytorch`) of the teacher's architecture, as DMD's checkpoints are.
    pub fn generator(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.generator = Some(path.into());
        self
    }

    /// How the generator is called, by the name of a published recipe such as `dmd2-4step` or `lightning-4step`
    /// ([`Recipe::names`]). Without a generator the model's UNet is one. `none` says that no published recipe is meant, whatever
    /// a file's name says.
    pub fn recipe(mut self, name: impl Into<String>) -> Self {
        self.options.recipe = Some(name.into());
        self
    }

    /// Number of the generator's calls, for a published recipe that leaves it open ([`Recipe::possible_steps`]).
    pub fn recipe_steps(mut self, steps: usize) -> Self {
        self.options.recipe_steps = Some(steps);
        self
    }

    /// The guidance that a generator is told as a number, for those that are: latent consistency models. 8.5 without this
    /// call, as in diffusers.
    pub fn told_guidance(mut self, scale: f64) -> Self {
        self.options.told_guidance = Some(scale);
        self
    }

    /// Merges a LoRA file into the weights when they are read, `strength` times; several add up, in this order. kohya's,
    /// diffusers' and PEFT's spellings are known. [`Pipeline::notes`] says what became of it.
    pub fn lora(mut self, path: impl Into<PathBuf>, strength: f64) -> Self {
        self.options.loras.push(LoraOption { path: path.into(), strength });
        self
    }

    /// Adds the word of a file of textual inversion, which prompts can have then. The word is the file's own: the tensor's name
    /// in diffusers' files, otherwise the file's name without its ending. [`Pipeline::notes`] says it.
    pub fn embedding(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.embeddings.push(EmbeddingOption { path: path.into(), word: None });
        self
    }

    /// [`Self::embedding`] under another word.
    pub fn embedding_as(mut self, path: impl Into<PathBuf>, word: impl Into<String>) -> Self {
        self.options.embeddings.push(EmbeddingOption { path: path.into(), word: Some(word.into()) });
        self
    }

    /// The autoencoder in place of the model's own: a folder, or a file of weights. How latents are scaled stays what the
    /// model's own says.
    pub fn autoencoder(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.autoencoder = Some(path.into());
        self
    }

    /// A model folder whose configurations, tokenizers and missing parts a single file shares; without one they are those of
    /// the published model of its family.
    pub fn config(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.config = Some(folder.into());
        self
    }

    /// The folder of an `AutoencoderTiny` (TAESD) in place of the full autoencoder: at 512×512 an eighteenth of its
    /// work.
    pub fn tiny_autoencoder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.tiny_autoencoder = Some(folder.into());
        self
    }

    /// Encodes and decodes large pictures in overlapping tiles of `side` × `side` latents, so that they need the memory
    /// of a tile.
    pub fn tiles(mut self, side: usize) -> Self {
        self.options.tile = Some(side);
        self
    }

    /// The float type of UNets and autoencoder, f32 by default. The statistics of normalisations, the time's
    /// embedding, the text encoder and every step of the sampler are computed in single precision.
    pub fn dtype(mut self, dtype: FloatDType) -> Self {
        self.options.dtype = dtype;
        self
    }

    /// Pictures that go through the networks together; the rest of a request waits. By default as many as have 8192
    /// latent positions in all, at most 32: 2 of 512×512 for Stable Diffusion, 32 of 64×64 for the embedded model. More
    /// need more memory and may be faster on a GPU.
    pub fn at_a_time(mut self, pictures: usize) -> Self {
        self.at_a_time = Some(pictures.max(1));
        self
    }

    /// Reads only the generator where there is one, otherwise only the teacher.
    pub(crate) fn generator_first(self) -> Self {
        self.networks(Networks::GeneratorFirst)
    }

    /// Leaves the teacher's UNet unread: half the memory, requests to the distilled generator only.
    pub fn one_step_only(self) -> Self {
        self.networks(Networks::Generator)
    }

    /// Leaves the distilled generator unread.
    pub fn teacher_only(self) -> Self {
        self.networks(Networks::Teacher)
    }

    fn networks(mut self, networks: Networks) -> Self {
        self.options.networks = networks;
        self
    }

    /// How the generator is called; `None` where there is no generator. Reads no weights.
    ///
    /// # Errors
    ///
    /// When a configuration is missing or damaged.
    pub fn generator_recipe(&self) -> Result<Option<Recipe>, Error> {
        Ok(dmd_model::generator_recipe(&self.options)?)
    }

    /// Reads the parts.
    ///
    /// # Errors
    ///
    /// When a file is missing or damaged, or the parts do not fit each other.
    pub fn build(self) -> Result<Pipeline, Error> {
        let model = AnyModel::open(&self.options)?;
        Ok(Pipeline { model, at_a_time: self.at_a_time, options: Some(self.options) })
    }
}

impl From<OpenOptions> for PipelineBuilder {
    fn from(options: OpenOptions) -> Self {
        Self { options, at_a_time: None }
    }
}
