//! What is distilled: latents of captions, or pictures of classes.

use std::collections::HashMap;
use std::fmt::Debug;
use std::ops::{ControlFlow, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use burn::module::ModuleDisplay;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use dmd_clip::TextEncoder;
use dmd_core::{Classes, Denoiser, FakeScore, Guided, Level, NoiseSchedule, Prediction, one_hot};
use dmd_scheduler::{DiscreteSchedule, EdmConfig, KarrasSchedule, SchedulerConfig, TimeSampler, heun};
use dmd_unet::{
    Autoencoder, ClassDenoiser, ClassUNet2d, ClassUNetConfig, Network, UNET_KEYS, UNet2d, UNetConfig,
    UNetDenoiser, class_names,
};
use dmd_weights::{Precision, write_json};
use serde::{Deserialize, Serialize};

use crate::Error;

/// What the samples of a domain are conditioned on.
pub type ConditionOf<D> = <<D as Domain>::Network as Denoiser>::Condition;

/// A teacher with everything around it: how captions become conditions, times become noise levels and samples
/// become pictures. Timesteps are whole numbers up to [`Self::last_timestep`], the noisiest.
pub trait Domain: Debug + Sync {
    /// The network of teacher, fake score and generator.
    type Network: FakeScore + ModuleDisplay;
    /// Its noise schedule.
    type Schedule: NoiseSchedule + Clone + Debug + Sync;

    /// The teacher's network, on the plain device.
    fn network(&self) -> &Self::Network;

    /// Shape of a sample, `[channels, height, width]`.
    fn shape(&self) -> [usize; 3];

    /// The noise schedule.
    fn schedule(&self) -> Self::Schedule;

    /// The noisiest timestep.
    fn last_timestep(&self) -> usize;

    /// Draws times among timesteps.
    fn times(&self, timesteps: RangeInclusive<usize>) -> TimeSampler;

    /// The level of a timestep.
    fn level(&self, timestep: usize) -> Level;

    /// What unit noise is multiplied by for a generator's first call.
    fn noise_scale(&self) -> f64;

    /// Refuses a caption that has no condition, before a network is called.
    ///
    /// # Errors
    ///
    /// When the caption is too long, or not the name of a class.
    fn check(&self, caption: &str) -> Result<(), Error>;

    /// The conditions of captions; of the empty one, what guidance points away from.
    ///
    /// # Errors
    ///
    /// When a caption cannot be used.
    fn condition(&self, captions: &[&str]) -> Result<ConditionOf<Self>, Error>;

    /// The teacher's deterministic samples of unit noise.
    ///
    /// # Errors
    ///
    /// When the sampler cannot walk so many steps.
    fn sample(
        &self,
        teacher: &Guided<Self::Network>,
        steps: usize,
        z: Tensor<4>,
        condition: &ConditionOf<Self>,
    ) -> Result<Tensor<4>, Error>;

    /// Pictures in [−1, 1] of samples; gradients pass.
    fn decode(&self, x0: Tensor<4>) -> Tensor<4>;

    /// Samples of pictures in [−1, 1].
    fn encode(&self, pictures: Tensor<4>) -> Tensor<4>;

    /// A network with a fresh critic's head on the training device.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] when the samples are too small for one.
    fn with_critic(&self, network: Self::Network, training: &Device) -> Result<Self::Network, Error>;

    /// A fake score that is trained on the squared error of another parameterisation.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] when this domain has its own only.
    fn with_loss(&self, network: Self::Network, loss: Prediction) -> Result<Self::Network, Error>;

    /// A frozen network in another float type.
    fn in_precision(&self, network: Self::Network, dtype: FloatDType) -> Self::Network;

    /// A network with the weights of a file.
    ///
    /// # Errors
    ///
    /// When the file is missing, broken or does not fit.
    fn with_weights(&self, network: Self::Network, file: &Path) -> Result<Self::Network, Error>;

    /// Writes a network's folder, `config.json` and weights.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    fn write(&self, folder: &Path, network: &Self::Network, precision: Precision) -> Result<(), Error>;

    /// The teacher under classifier-free guidance.
    ///
    /// # Errors
    ///
    /// As [`Self::condition`].
    fn guided(&self, scale: f64) -> Result<Guided<Self::Network>, Error> {
        self.guided_in(scale, FrozenPrecision::Single)
    }

    /// [`Self::guided`] with the network in a precision.
    ///
    /// # Errors
    ///
    /// As [`Self::condition`].
    fn guided_in(&self, scale: f64, dtype: FrozenPrecision) -> Result<Guided<Self::Network>, Error> {
        let network = self.network().clone();
        let network = match dtype {
            FrozenPrecision::Single => network,
            FrozenPrecision::Half => self.in_precision(network, FloatDType::F16),
            FrozenPrecision::Brain => self.in_precision(network, FloatDType::BF16),
        };
        Ok(Guided::new(network, self.condition(&[""])?, scale))
    }
}

/// The float type of the teacher's network during distillation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrozenPrecision {
    /// f32.
    #[default]
    #[serde(rename = "f32")]
    Single,
    /// f16: half the memory.
    #[serde(rename = "f16")]
    Half,
    /// bf16: half the memory, the range of f32.
    #[serde(rename = "bf16")]
    Brain,
}

impl FrozenPrecision {
    /// Checks that a device computes in it.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] when it does not.
    pub fn check(self, device: &Device) -> Result<(), Error> {
        let dtype = match self {
            Self::Single => return Ok(()),
            Self::Half => FloatDType::F16,
            Self::Brain => FloatDType::BF16,
        };
        if device.supports_dtype(dtype) {
            return Ok(());
        }
        Err(Error::Option {
            key: "teacher_precision",
            value: format!("{dtype:?}"),
            must: "f32 on this device: it does not compute in that type",
        })
    }
}

/// What kind of teacher a model folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Stable Diffusion's parts: [`LatentDomain`].
    Latents,
    /// A class-conditional or unconditional network on pixels: [`PixelDomain`].
    Pixels,
}

impl Kind {
    /// Looks at `unet/config.json`.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn of(model: &Path) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Named {
            #[serde(rename = "_class_name", default)]
            class: String,
        }
        let named: Named = dmd_weights::read_json(&model.join("unet").join("config.json"))?;
        Ok(if named.class == "UNet2DModel" { Self::Pixels } else { Self::Latents })
    }
}

/// Stable Diffusion's parts, read from a diffusers folder onto the plain device.
#[derive(Debug)]
pub struct LatentDomain {
    /// Prompts to features.
    pub text: TextEncoder,
    /// The denoiser, unguided.
    pub denoiser: UNetDenoiser,
    /// The UNet's configuration.
    pub unet: UNetConfig,
    /// Latents to pictures.
    pub autoencoder: Autoencoder,
    /// The noise schedule and sampler.
    pub scheduler: SchedulerConfig,
    features: Features,
    device: Device,
}

/// Text features by caption, computed once: the text encoder is frozen. Bounded; each caption is encoded alone, so
/// that its features do not depend on its company.
#[derive(Debug, Default)]
struct Features(Mutex<HashMap<String, TensorData>>);

/// Most bytes of features that are kept.
const KEPT_FEATURES: usize = 1 << 30;

impl Features {
    fn of(&self, caption: &str, text: &TextEncoder) -> Result<TensorData, Error> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(features) = kept.get(caption) {
            return Ok(features.clone());
        }
        let features = text.encode(&[caption])?.into_data();
        let bytes = features.num_elements() * size_of::<f32>();
        if (kept.len() + 1) * bytes <= KEPT_FEATURES {
            kept.insert(caption.to_owned(), features.clone());
        }
        Ok(features)
    }
}

impl LatentDomain {
    /// Reads a diffusers folder.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken or does not fit.
    pub fn from_dir(model: &Path, device: &Device) -> Result<Self, Error> {
        let path = model.join("scheduler").join("scheduler_config.json");
        let scheduler: SchedulerConfig = dmd_weights::read_json(&path)?;
        let (scheduler, _) = scheduler.for_stable_diffusion()?;
        let (unet, config) = UNet2d::from_dir(&model.join("unet"), device)?;
        let (autoencoder, _) = Autoencoder::from_dir(&model.join("vae"), device)?;
        Ok(Self {
            text: TextEncoder::from_dir(model, device)?,
            denoiser: UNetDenoiser::new(unet, scheduler.prediction()),
            unet: config,
            autoencoder,
            scheduler,
            features: Features::default(),
            device: device.clone(),
        })
    }
}

impl Domain for LatentDomain {
    type Network = UNetDenoiser;
    type Schedule = DiscreteSchedule;

    fn network(&self) -> &UNetDenoiser {
        &self.denoiser
    }

    fn shape(&self) -> [usize; 3] {
        [self.unet.in_channels, self.unet.sample_size, self.unet.sample_size]
    }

    fn schedule(&self) -> DiscreteSchedule {
        self.scheduler.schedule()
    }

    fn last_timestep(&self) -> usize {
        self.schedule().count() - 1
    }

    fn times(&self, timesteps: RangeInclusive<usize>) -> TimeSampler {
        TimeSampler::Timesteps(timesteps)
    }

    fn level(&self, timestep: usize) -> Level {
        let (alpha, sigma) = self.schedule().alpha_sigma(timestep);
        Level { t: timestep as f64, alpha, sigma }
    }

    fn noise_scale(&self) -> f64 {
        1.0
    }

    fn check(&self, caption: &str) -> Result<(), Error> {
        self.text.tokenizer().encode(caption)?;
        Ok(())
    }

    fn condition(&self, captions: &[&str]) -> Result<Tensor<3>, Error> {
        let rows = captions
            .iter()
            .map(|caption| Ok(Tensor::from_data(self.features.of(caption, &self.text)?, &self.device)))
            .collect::<Result<Vec<Tensor<3>>, Error>>()?;
        Ok(Tensor::cat(rows, 0))
    }

    fn sample(
        &self,
        teacher: &Guided<UNetDenoiser>,
        steps: usize,
        z: Tensor<4>,
        condition: &Tensor<3>,
    ) -> Result<Tensor<4>, Error> {
        let go_on = |_: usize, _: &Tensor<4>| ControlFlow::Continue(());
        let x0 = self.scheduler.sample(teacher, steps, z.clone(), condition, go_on)?;
        Ok(x0.unwrap_or(z))
    }

    fn decode(&self, x0: Tensor<4>) -> Tensor<4> {
        self.autoencoder.decode(x0)
    }

    fn encode(&self, pictures: Tensor<4>) -> Tensor<4> {
        self.autoencoder.encode(pictures).mode()
    }

    fn with_critic(&self, network: UNetDenoiser, training: &Device) -> Result<UNetDenoiser, Error> {
        Ok(network.with_critic(UNet2d::sizes(&self.unet).critic(training)?))
    }

    fn with_loss(&self, network: UNetDenoiser, loss: Prediction) -> Result<UNetDenoiser, Error> {
        Ok(network.with_loss(loss))
    }

    fn in_precision(&self, network: UNetDenoiser, dtype: FloatDType) -> UNetDenoiser {
        network.in_precision(dtype)
    }

    fn with_weights(&self, mut network: UNetDenoiser, file: &Path) -> Result<UNetDenoiser, Error> {
        let file = dmd_weights::read(file)?;
        network.network = dmd_weights::load_for_training(network.network, &file, &UNET_KEYS)?;
        Ok(network)
    }

    fn write(&self, folder: &Path, network: &UNetDenoiser, precision: Precision) -> Result<(), Error> {
        Ok(network.network.save(&self.unet, folder, precision)?)
    }
}

/// Noise levels of DMD's grid.
const GRID: usize = 1000;

/// A class-conditional or unconditional EDM model on pixels: CIFAR-10's and ImageNet-64's kind.
///
/// Its folder has `unet` (diffusers' `UNet2DModel`), `scheduler` (`EDMEulerScheduler`) and, where classes have names,
/// `classes.json`, a list of them; otherwise a class is named by its number.
#[derive(Debug)]
pub struct PixelDomain {
    denoiser: ClassDenoiser,
    unet: ClassUNetConfig,
    edm: EdmConfig,
    names: Vec<String>,
    device: Device,
}

impl PixelDomain {
    /// The parts as they are.
    pub fn new(
        denoiser: ClassDenoiser,
        unet: ClassUNetConfig,
        edm: EdmConfig,
        names: Vec<String>,
        device: &Device,
    ) -> Self {
        Self { denoiser, unet, edm, names, device: device.clone() }
    }

    /// Reads a model folder.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken or does not fit.
    pub fn from_dir(model: &Path, device: &Device) -> Result<Self, Error> {
        let edm: EdmConfig = dmd_weights::read_json(&model.join("scheduler").join("scheduler_config.json"))?;
        let (network, unet) = ClassUNet2d::from_dir(&model.join("unet"), device)?;
        let names = class_names(model, unet.classes())?;
        let denoiser = ClassDenoiser::new(network, Prediction::Karras { sigma_data: edm.sigma_data() });
        Ok(Self::new(denoiser, unet, edm, names, device))
    }

    /// The classes' names, in order; none for an unconditional model.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Writes a teacher's whole folder.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn write_teacher(&self, model: &Path, precision: Precision) -> Result<(), Error> {
        self.write(&model.join("unet"), &self.denoiser, precision)?;
        write_json(&model.join("classes.json"), &self.names)?;
        Ok(write_json(&model.join("scheduler").join("scheduler_config.json"), &self.edm)?)
    }
}

impl Domain for PixelDomain {
    type Network = ClassDenoiser;
    type Schedule = KarrasSchedule;

    fn network(&self) -> &ClassDenoiser {
        &self.denoiser
    }

    fn shape(&self) -> [usize; 3] {
        [self.unet.in_channels, self.unet.sample_size, self.unet.sample_size]
    }

    fn schedule(&self) -> KarrasSchedule {
        self.edm.schedule()
    }

    fn last_timestep(&self) -> usize {
        GRID - 1
    }

    fn times(&self, timesteps: RangeInclusive<usize>) -> TimeSampler {
        TimeSampler::Grid(self.schedule().sigmas(GRID)[timesteps].to_vec())
    }

    fn level(&self, timestep: usize) -> Level {
        Level::of_sigma(self.schedule().sigmas(GRID)[timestep])
    }

    fn noise_scale(&self) -> f64 {
        self.edm.sigma_max()
    }

    fn check(&self, caption: &str) -> Result<(), Error> {
        self.condition(&[caption]).map(drop)
    }

    fn condition(&self, captions: &[&str]) -> Result<Classes, Error> {
        if self.names.is_empty() {
            return Ok(None);
        }
        let mut rows = Vec::with_capacity(captions.len());
        for caption in captions {
            let row = match self.names.iter().position(|name| name == caption) {
                Some(class) => one_hot(&[class], self.names.len(), &self.device),
                None if caption.is_empty() => Tensor::zeros([1, self.names.len()], &self.device),
                None => {
                    let reason = format!("{caption:?} is none of the {} classes", self.names.len());
                    return Err(dmd_data::Error::Data { path: PathBuf::from("classes.json"), reason }.into());
                }
            };
            rows.push(row);
        }
        Ok(Some(Tensor::cat(rows, 0)))
    }

    fn sample(
        &self,
        teacher: &Guided<ClassDenoiser>,
        steps: usize,
        z: Tensor<4>,
        condition: &Classes,
    ) -> Result<Tensor<4>, Error> {
        Ok(heun::sample(teacher, &self.schedule(), steps, z * self.edm.sigma_max(), condition))
    }

    fn decode(&self, x0: Tensor<4>) -> Tensor<4> {
        x0
    }

    fn encode(&self, pictures: Tensor<4>) -> Tensor<4> {
        pictures.narrow(1, 0, self.unet.in_channels)
    }

    fn with_critic(&self, network: ClassDenoiser, training: &Device) -> Result<ClassDenoiser, Error> {
        Ok(network.with_critic(ClassUNet2d::sizes(&self.unet).critic(training)?))
    }

    fn with_loss(&self, network: ClassDenoiser, loss: Prediction) -> Result<ClassDenoiser, Error> {
        if loss == network.prediction() {
            return Ok(network);
        }
        Err(Error::Option {
            key: "fake.loss",
            value: format!("{loss:?}"),
            must: "left out: an EDM model has its own",
        })
    }

    fn in_precision(&self, network: ClassDenoiser, dtype: FloatDType) -> ClassDenoiser {
        network.in_precision(dtype)
    }

    fn with_weights(&self, mut network: ClassDenoiser, file: &Path) -> Result<ClassDenoiser, Error> {
        let file = dmd_weights::read(file)?;
        network.network = dmd_weights::load_for_training(network.network, &file, &UNET_KEYS)?;
        Ok(network)
    }

    fn write(&self, folder: &Path, network: &ClassDenoiser, precision: Precision) -> Result<(), Error> {
        Ok(network.network.save(&self.unet, folder, precision)?)
    }
}
