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

/// Prompts to pictures with a distilled generator, a teacher, or both.
#[derive(Debug, Clone)]
pub struct Pipeline {
    pub(crate) model: AnyModel,
    /// Pictures that go through the networks together, where the builder's user says so.
    pub(crate) at_a_time: Option<usize>,
    /// What a builder opened.
    pub(crate) options: Option<OpenOptions>,
}

impl Pipeline {
    /// Starts from a model folder in diffusers' layout, with the one-step UNet in `unet_one_step`, or from a single file of
    /// Stable Diffusion.
    pub fn builder(model: impl Into<PathBuf>, device: &Device) -> PipelineBuilder {
        PipelineBuilder::new(model.into(), device)
    }

    /// Everything a model folder holds. The folder can also be one in memory: the path of a
    /// [`MemoryFolder`](crate::MemoryFolder), whose files a program gave as bytes.
    ///
    /// # Errors
    ///
    /// As [`PipelineBuilder::build`].
    pub fn from_dir(model: &Path, device: &Device) -> Result<Self, Error> {
        Self::builder(model, device).build()
    }

    /// The model that is a part of this library, coloured shapes in one step: no file is read. Its teacher is not in it.
    ///
    /// # Errors
    ///
    /// As [`PipelineBuilder::build`].
    #[cfg(feature = "embedded")]
    pub fn embedded(device: &Device) -> Result<Self, Error> {
        Self::from_dir(&crate::embedded(), device)
    }

    /// The pipeline of an opened model.
    pub fn new(model: AnyModel) -> Self {
        Self { model, at_a_time: None, options: None }
    }

    /// The LoRA files in the weights.
    pub fn loras(&self) -> &[LoraOption] {
        self.options.as_ref().map_or(&[], |options| &options.loras)
    }

    /// Puts other LoRA files, or the same ones at other strengths, in the place of those in the weights; none takes all of
    /// them out. Only the layers that one of them touches are read again, and pictures are those of a pipeline that was
    /// built with the new files, bit for bit. [`Self::notes`] says what became of each.
    ///
    /// # Errors
    ///
    /// [`AnyModel::change_loras`]'s, after which the pipeline is what it was; also of a pipeline that no builder made.
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

    /// How many steps the distilled generator takes; `None` where there is no generator.
    pub fn generator_steps(&self) -> Option<usize> {
        self.generator_recipe().map(Recipe::steps)
    }

    /// How the distilled generator is called; `None` where there is no generator.
    pub fn generator_recipe(&self) -> Option<&Recipe> {
        with_model!(&self.model, model => model.generator.as_ref().map(|generator| &generator.recipe))
    }

    /// Whether there is a teacher's network: not where the model is itself one of few steps, or was opened without.
    pub fn has_teacher(&self) -> bool {
        with_model!(&self.model, model => model.teacher.is_some())
    }

    /// Noise schedule and samplers.
    pub fn noising(&self) -> &Noising {
        with_model!(&self.model, model => &model.noising)
    }

    /// What a user should know of how the model was opened, a sentence each: what became of each LoRA file, the word of
    /// each embedding, and what a single file does not say.
    pub fn notes(&self) -> &[String] {
        with_model!(&self.model, model => &model.notes)
    }

    /// Height and width of the pictures that the model was trained on.
    pub fn default_size(&self) -> (usize, usize) {
        with_model!(&self.model, model => model.picture_size())
    }

    /// The teacher's guidance where a request names none: what the generator was distilled with, otherwise 7.5 for
    /// Stable Diffusion, 5 for Stable Diffusion XL and 1 for classes.
    pub fn default_guidance(&self) -> f64 {
        with_model!(&self.model, model => model.guidance_scale)
    }

    /// The prompts' text features.
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

    /// The pictures of samples `[batch, channels, height, width]`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] when the decoder's output is not.
    pub fn decode(&self, samples: Tensor<4>) -> Result<Vec<RgbImage>, Error> {
        let pictures = with_model!(&self.model, model => model.codec.decode(samples));
        Ok(to_rgb8(finite(pictures, "autoencoder")?))
    }

    /// The noise of some seeds on PyTorch's CPU generator, one picture each,
    /// `[seeds, channels, height / f, width / f]`.
    pub fn noise(&self, seeds: &[u64], height: usize, width: usize) -> Tensor<4> {
        let mut noises: Vec<Noise> = seeds.iter().map(|seed| NoiseSource::TorchCpu.open(*seed)).collect();
        with_model!(&self.model, model => {
            let factor = model.codec.factor();
            let shape = [1, model.shape()[0], height / factor, width / factor];
            rows(&mut noises, shape, &model.device)
        })
    }
}
