//! The teacher of a class-conditional model on pixels: EDM's loss and noise levels.

use std::collections::HashMap;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use dmd_core::{Classes, Denoiser, FakeScore, Noise, NoiseSchedule, Prediction, denoising, one_hot};
use dmd_data::Dataset;
use dmd_model::pixels::{from_rgb8, to_rgb8};
use dmd_model::{Model, PixelClasses};
use dmd_scheduler::{EdmConfig, heun};
use dmd_unet::{ClassDenoiser, ClassUNetConfig};
use image::RgbImage;

use crate::config::PixelTeacherConfig;
use crate::fingerprint::Fingerprint;
use crate::run::Probe;
use crate::training::{Recipe, Training, TrainingConfig};
use crate::{Error, Figures, chunks};

/// Bytes of decoded pictures that are kept in memory; further ones are read again each time.
const KEPT: usize = 2 << 30;

/// Trains an EDM model on the pictures of a data set, their captions being the classes.
#[derive(Debug)]
pub struct PixelRecipe {
    config: PixelTeacherConfig,
    unet: ClassUNetConfig,
    edm: EdmConfig,
    names: Vec<String>,
    dataset: Arc<dyn Dataset>,
    classes: Vec<usize>,
    kept: HashMap<usize, RgbImage>,
    device: Device,
}

impl PixelRecipe {
    /// Starts to train a fresh network on the pictures of a data set; `device` is the plain device. `made_from` is what a
    /// checkpoint depends on.
    ///
    /// # Errors
    ///
    /// When the architecture cannot be used; a data set without a list of examples has no classes.
    pub fn start(
        config: PixelTeacherConfig,
        dataset: Arc<dyn Dataset>,
        made_from: Fingerprint,
        device: &Device,
    ) -> Result<Training<Self>, Error> {
        let listed = dataset.count().filter(|count| *count > 0 && *count == dataset.entries().count());
        if listed.is_none() {
            return Err(dmd_data::Error::Unlisted { dataset: dataset.name() }.into());
        }
        let mut names: Vec<String> = dataset.entries().map(|entry| entry.caption.to_owned()).collect();
        names.sort();
        names.dedup();
        let class = |caption: &str| names.binary_search_by(|name| name.as_str().cmp(caption)).unwrap_or(0);
        let classes = dataset.entries().map(|entry| class(entry.caption)).collect();
        // A single class needs no name.
        if names.len() == 1 {
            names.clear();
        }
        let edm = EdmConfig::default();
        let unet = config.unet.architecture(dataset.size()? as usize, names.len());
        device.seed(config.seed);
        let network = unet.init(&device.clone().autodiff())?;
        let denoiser = ClassDenoiser::new(network, Prediction::Karras { sigma_data: edm.sigma_data() });
        let section = &config.training;
        let rate = section.schedule.rate(section.learning_rate, section.warmup_steps, section.pace.steps);
        let training = TrainingConfig { rate, ema_decay: section.ema_decay, seed: config.seed, made_from };
        let (kept, optimizer) = (HashMap::new(), config.optimizer);
        let recipe = Self { config, unet, edm, names, dataset, classes, kept, device: device.clone() };
        Ok(Training::new(recipe, denoiser, training, "pixels", device).with_optimizer(optimizer.into()))
    }

    /// A picture of the data set.
    fn picture(&mut self, place: usize) -> Result<RgbImage, Error> {
        if let Some(picture) = self.kept.get(&place) {
            return Ok(picture.clone());
        }
        let picture = self.dataset.get(place)?.image;
        if (self.kept.len() + 1) * picture.as_raw().len() <= KEPT {
            self.kept.insert(place, picture.clone());
        }
        Ok(picture)
    }

    /// Class rows; withheld ones are zeros, for guidance.
    fn rows(&self, picked: &[usize], withheld: &[bool]) -> Classes {
        (!self.names.is_empty()).then(|| {
            let rows = one_hot(picked, self.names.len(), &self.device);
            let kept: Vec<f32> = withheld.iter().map(|withheld| if *withheld { 0.0 } else { 1.0 }).collect();
            rows * Tensor::<1>::from_floats(kept.as_slice(), &self.device).reshape([picked.len(), 1])
        })
    }
}

impl Training<PixelRecipe> {
    /// The averaged teacher with what belongs to it.
    ///
    /// # Errors
    ///
    /// When the schedule is not supported.
    pub fn model(&self) -> Result<Model<PixelClasses>, Error> {
        let (network, recipe) = (self.average(), self.recipe());
        let (unet, edm, names) = (recipe.unet.clone(), recipe.edm.clone(), recipe.names.clone());
        Ok(Model::of_teacher(network, unet, edm, names, self.device())?)
    }
}

impl Recipe for PixelRecipe {
    type Network = ClassDenoiser;

    fn name(&self) -> &'static str {
        "pixels"
    }

    fn batch(&self) -> Option<usize> {
        Some(self.config.training.batch)
    }

    fn loss(
        &mut self,
        network: &ClassDenoiser,
        _rate: f64,
        noise: &mut Noise,
    ) -> Result<(Tensor<1>, Figures), Error> {
        let batch = self.config.training.batch;
        let places: Vec<usize> = (0..batch).map(|_| noise.below(self.classes.len())).collect();
        let pictures = places.iter().map(|place| self.picture(*place)).collect::<Result<Vec<_>, _>>()?;
        let x0 = from_rgb8(&pictures, &self.device);
        let picked: Vec<usize> = places.iter().map(|place| self.classes[*place]).collect();
        let share = self.config.training.class_dropout;
        let withheld: Vec<bool> = noise.uniform(0.0..=1.0, batch).iter().map(|u| *u < share).collect();
        let classes = self.rows(&picked, &withheld);
        // EDM, table 1: ln sigma of mean −1.2 and deviation 1.2.
        let sigma = (noise.normal::<1>([batch], &self.device) * 1.2 - 1.2).exp();
        let level = self.edm.schedule().level(sigma);
        let x_t = level.add_noise(x0.clone(), noise.normal(x0.dims(), &self.device));
        let x0_hat = network.denoise(x_t, &level, &classes);
        let loss = denoising::loss(x0_hat, x0, network.loss_weight(&level));
        let mut figures = Figures::new();
        figures.loss("denoising", loss.clone());
        Ok((loss, figures))
    }

    /// Thirty-two pictures by 18 steps of Heun, a class after the other.
    fn probe(&self, network: &ClassDenoiser, stopped: &dyn Fn() -> bool) -> Result<Option<Probe>, Error> {
        const COUNT: usize = 32;
        let mut noise = Noise::stream(0, "probe");
        let picked: Vec<usize> = (0..COUNT).map(|i| i % self.names.len().max(1)).collect();
        let shape = [self.unet.in_channels, self.unet.sample_size, self.unet.sample_size];
        let z = noise.normal([COUNT, shape[0], shape[1], shape[2]], &self.device) * self.edm.sigma_max();
        let mut pictures = Vec::new();
        for range in chunks::ranges(COUNT, chunks::of_samples(shape, self.config.training.batch)) {
            if stopped() {
                return Ok(None);
            }
            let z = z.clone().narrow(0, range.start, range.len());
            let classes = self.rows(&picked[range.clone()], &vec![false; range.len()]);
            let x0 = heun::sample(network, &self.edm.schedule(), 18, z, &classes);
            pictures.extend(to_rgb8(x0));
        }
        Ok(Some(Probe { pictures, figures: Vec::new() }))
    }
}
