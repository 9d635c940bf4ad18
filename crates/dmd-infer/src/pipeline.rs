use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use dmd_core::Noise;
use dmd_model::pixels::to_rgb8;
use dmd_model::{AnyModel, Conditioner, LoraOption, Noising, OpenOptions, Recipe, TextFeatures, with_model};
use image::RgbImage;

use crate::checks::finite;
use crate::drawing::rows;
use crate::request::NoiseSource;
use crate::{Error, PipelineBuilder};

/// Draws pictures from prompts with a distilled generator, a teacher, or both.
#[derive(Debug, Clone)]
pub struct Pipeline {
    pub(crate) model: AnyModel,
    /// Number of pictures in one batch, if the builder was told one.
    pub(crate) at_a_time: Option<usize>,
    /// The options with which a builder opened the model.
    pub(crate) options: Option<OpenOptions>,
}

impl Pipeline {
    /// Makes a builder for a model folder in diffusers' layout, with the one-step UNet in `unet_one_step`, or for a
    /// single file of Stable Diffusion.
    pub fn builder(model: impl Into<PathBuf>, device: &Device) -> PipelineBuilder {
        PipelineBuilder::new(model.into(), device)
    }

    /// Opens everything in a model folder. The folder can also be in memory: `model` is then the path of a
    /// [`MemoryFolder`](crate::MemoryFolder), to which a program gave the files as bytes.
    ///
    /// # Errors
    ///
    /// As [`PipelineBuilder::build`].
    pub fn from_dir(model: &Path, device: &Device) -> Result<Self, Error> {
        Self::builder(model, device).build()
    }

    /// Opens the model that is a part of this library. It draws coloured shapes in one step, and has no teacher. No
    /// file is read.
    ///
    /// # Errors
    ///
    /// As [`PipelineBuilder::build`].
    #[cfg(feature = "embedded")]
    pub fn embedded(device: &Device) -> Result<Self, Error> {
        Self::from_dir(&crate::embedded(), device)
    }

    /// Makes a pipeline from an opened model.
    pub fn new(model: AnyModel) -> Self {
        Self { model, at_a_time: None, options: None }
    }

    /// The LoRA files that are merged into the weights.
    pub fn loras(&self) -> &[LoraOption] {
        self.options.as_ref().map_or(&[], |options| &options.loras)
    }

    /// Replaces the LoRA files in the weights by others, or by the same files at other strengths. An empty list removes
    /// all of them. Reads again only the layers that an old or a new file changes. Pictures are bit for bit those of a
    /// pipeline that was built with the new files. [`Self::notes`] says how each file was used.
    ///
    /// # Errors
    ///
    /// As [`AnyModel::change_loras`]; the pipeline then stays unchanged. A pipeline that was not made by a builder
    /// always returns an error.
    pub fn set_loras(&mut self, loras: impl IntoIterator<Item = LoraOption>) -> Result<(), Error> {
        let Some(options) = &mut self.options else {
            return Err(dmd_model::Error::Setting {
                setting: "a change of LoRA files".to_owned(),
                hint: "it takes a pipeline that was built from files".to_owned(),
            }
            .into());
        };
        Ok(self.model.change_loras(options, loras.into_iter().collect())?)
    }

    /// The model.
    pub fn model(&self) -> &AnyModel {
        &self.model
    }

    /// How many steps the distilled generator takes; `None` if there is no generator.
    pub fn generator_steps(&self) -> Option<usize> {
        self.generator_recipe().map(Recipe::steps)
    }

    /// How the distilled generator is called; `None` if there is no generator.
    pub fn generator_recipe(&self) -> Option<&Recipe> {
        with_model!(&self.model, model => model.generator.as_ref().map(|generator| &generator.recipe))
    }

    /// Whether there is a teacher's network. There is none if the model itself is a few-step model, or was opened
    /// without the teacher.
    pub fn has_teacher(&self) -> bool {
        with_model!(&self.model, model => model.teacher.is_some())
    }

    /// Noise schedule and samplers.
    pub fn noising(&self) -> &Noising {
        with_model!(&self.model, model => &model.noising)
    }

    /// Notes for the user about how the model was opened, one sentence each: how each LoRA file was used, the word of
    /// each embedding, and what was assumed where a single file does not say it.
    pub fn notes(&self) -> &[String] {
        with_model!(&self.model, model => &model.notes)
    }

    /// Height and width of the pictures that the model was trained on.
    pub fn default_size(&self) -> (usize, usize) {
        with_model!(&self.model, model => model.picture_size())
    }

    /// The teacher's default guidance scale: the one that the generator was distilled with, otherwise 7.5 for Stable
    /// Diffusion, 5 for Stable Diffusion XL and 1 for classes.
    pub fn default_guidance(&self) -> f64 {
        with_model!(&self.model, model => model.guidance_scale)
    }

    /// Computes the text features of prompts.
    ///
    /// # Errors
    ///
    /// When a prompt is too long, the features are not finite, or the model draws classes.
    pub fn encode_prompt(&self, prompts: &[&str]) -> Result<TextFeatures, Error> {
        let features = with_model!(&self.model, model => model.conditioner.text_features(prompts)?);
        let stage = "text encoder";
        let pooled = features.pooled.map(|pooled| finite(pooled, stage)).transpose()?;
        Ok(TextFeatures { words: finite(features.words, stage)?, pooled })
    }

    /// Decodes samples, `[batch, channels, height, width]`, to pictures.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] when the decoder's output is not finite.
    pub fn decode(&self, samples: Tensor<4>) -> Result<Vec<RgbImage>, Error> {
        let pictures = with_model!(&self.model, model => model.codec.decode(samples));
        Ok(to_rgb8(finite(pictures, "autoencoder")?))
    }

    /// The noise of PyTorch's CPU generator for seeds, `[seeds, channels, height / f, width / f]`, where `f` is the
    /// number of pixels per latent along one side.
    pub fn noise(&self, seeds: &[u64], height: usize, width: usize) -> Tensor<4> {
        let mut noises: Vec<Noise> = seeds.iter().map(|seed| NoiseSource::TorchCpu.open(*seed)).collect();
        with_model!(&self.model, model => {
            let factor = model.codec.factor();
            let shape = [1, model.shape()[0], height / factor, width / factor];
            rows(&mut noises, shape, &model.device)
        })
    }
}
