use std::path::Path;

use burn::tensor::{Device, FloatDType, Tensor};
use dmd_core::{Classes, FewStep, Guided, Level, Noise, Prediction, one_hot};
use dmd_scheduler::{EdmConfig, heun};
use dmd_unet::{ClassDenoiser, ClassUNet2d, ClassUNetConfig, class_names};
use image::RgbImage;

use crate::builder::{Settings, check_dtype};
use crate::{Error, Method, to_rgb8};

/// Noise levels of DMD's grid; a generator's timesteps are places in it.
const GRID: usize = 1000;

/// Pictures of classes from an EDM model on pixels, CIFAR-10's and ImageNet-64's kind: one call of a distilled
/// generator at sigma 80, or a teacher's Heun steps.
///
/// The folder has `unet` (diffusers' `UNet2DModel`), `scheduler` (`EDMEulerScheduler`), perhaps `unet_one_step`, and
/// `classes.json` where classes have names.
#[derive(Debug, Clone)]
pub struct ClassPipeline {
    teacher: ClassDenoiser,
    generator: Option<FewStep<ClassDenoiser>>,
    config: ClassUNetConfig,
    edm: EdmConfig,
    names: Vec<String>,
    guidance: f64,
    device: Device,
}

impl ClassPipeline {
    /// The same pipeline with its networks in another float type; samples stay in single precision.
    ///
    /// # Errors
    ///
    /// [`Error::Dtype`] when the device does not compute in it.
    pub fn in_precision(self, dtype: FloatDType) -> Result<Self, Error> {
        check_dtype(&self.device, dtype)?;
        if dtype == FloatDType::F32 {
            return Ok(self);
        }
        let generator = self.generator.map(|network| network.map_denoiser(|d| d.in_precision(dtype)));
        Ok(Self { teacher: self.teacher.in_precision(dtype), generator, ..self })
    }

    /// Reads a model folder.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken or does not fit.
    pub fn from_dir(model: &Path, device: &Device) -> Result<Self, Error> {
        let edm: EdmConfig = dmd_weights::read_json(&model.join("scheduler").join("scheduler_config.json"))?;
        edm.validate()?;
        let prediction = Prediction::Karras { sigma_data: edm.sigma_data };
        let (network, config) = ClassUNet2d::from_dir(&model.join("unet"), device)?;
        let teacher = ClassDenoiser::new(network, prediction);
        let names = class_names(model, config.classes())?;
        let folder = model.join("unet_one_step");
        let (mut generator, mut guidance) = (None, 1.0);
        if folder.is_dir() {
            let (network, _) = ClassUNet2d::from_dir(&folder, device)?;
            let settings = Settings::beside(&folder)?;
            let timesteps = settings.timesteps.unwrap_or(vec![GRID - 1]);
            let descends = timesteps.windows(2).all(|pair| pair[0] > pair[1]);
            if timesteps.is_empty() || !descends || timesteps[0] >= GRID {
                let reason = format!("one_step.json lists places in a grid of {GRID}, descending");
                return Err(dmd_scheduler::Error::Timesteps { timesteps, reason }.into());
            }
            let sigmas = edm.schedule().sigmas(GRID);
            let levels = timesteps.iter().map(|place| Level::of_sigma(sigmas[*place])).collect();
            let network = FewStep::new(ClassDenoiser::new(network, prediction), levels);
            generator = Some(network.with_noise_scale(edm.sigma_max));
            guidance = settings.guidance_scale.unwrap_or(1.0);
        }
        Ok(Self { teacher, generator, config, edm, names, guidance, device: device.clone() })
    }

    /// The classes' names, in order; none for an unconditional model.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// How many steps the generator was distilled for; `None` where there is no generator.
    pub fn generator_steps(&self) -> Option<usize> {
        self.generator.as_ref().map(|generator| generator.levels().len())
    }

    /// Guidance that the generator's teacher was distilled with; 1 without a generator.
    pub fn default_guidance(&self) -> f64 {
        self.guidance
    }

    /// One picture per class name and seed; a seed stands for PyTorch's CPU generator. `""` is no class: any
    /// picture of an unconditional model.
    ///
    /// # Errors
    ///
    /// [`Error::Seeds`] unless there is one seed per class, [`Error::Class`] for an unknown name,
    /// [`Error::Missing`] when one step is asked of a model without a generator.
    pub fn generate(&self, classes: &[&str], seeds: &[u64], method: Method) -> Result<Vec<RgbImage>, Error> {
        if classes.len() != seeds.len() {
            return Err(Error::Seeds { prompts: classes.len(), seeds: seeds.len() });
        }
        if classes.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        let mut rows = Vec::new();
        for name in classes {
            let class = self.names.iter().position(|known| known == name);
            rows.push(match (class, name.is_empty()) {
                (Some(class), _) => one_hot(&[class], self.names.len(), &self.device),
                (None, true) => Tensor::zeros([1, self.names.len().max(1)], &self.device),
                (None, false) => {
                    let known = self.names.clone();
                    return Err(Error::Class { name: (*name).to_owned(), known });
                }
            });
        }
        let condition: Classes = (!self.names.is_empty()).then(|| Tensor::cat(rows, 0));
        let side = self.config.sample_size;
        let shape = [1, self.config.in_channels, side, side];
        let mut streams: Vec<Noise> = seeds.iter().map(|seed| Noise::torch_cpu(*seed)).collect();
        let mut draw =
            || Tensor::cat(streams.iter_mut().map(|noise| noise.normal(shape, &self.device)).collect(), 0);
        let z = draw();
        let x0 = match method {
            Method::OneStep => {
                let Some(generator) = &self.generator else {
                    return Err(Error::Missing {
                        wanted: "one-step generator (unet_one_step)",
                        hint: "distil one, or ask the teacher for more steps",
                    });
                };
                generator.generate(z, &condition, &mut draw)
            }
            Method::Teacher { steps, guidance_scale } => {
                if steps == 0 || steps > GRID {
                    return Err(dmd_scheduler::Error::Steps { steps, max: GRID }.into());
                }
                let nothing = condition.as_ref().map(|rows| rows.zeros_like().narrow(0, 0, 1));
                let guided = Guided::new(self.teacher.clone(), nothing, guidance_scale);
                heun::sample(&guided, &self.edm.schedule(), steps, z * self.edm.sigma_max, &condition)
            }
        };
        let [count, channels, height, width] = x0.dims();
        let x0 = if channels == 1 { x0.expand([count, 3, height, width]) } else { x0 };
        Ok(to_rgb8(x0))
    }
}
