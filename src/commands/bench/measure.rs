//! What `dmd bench` times, and how.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};
use dmd_core::{Denoiser, Distiller, FewStep, Noise, NoiseSchedule};
use dmd_infer::{Method, PipelineBuilder, Request};
use dmd_kernels::{Operation, Spent, flops, recorded, timed as clocked};
use dmd_model::{
    AnyModel, AnyText, Conditioner, Family, Model, NetworkFiles, Networks, OpenOptions, TextParts,
    with_model, with_text,
};
use dmd_train::{Batch, LearningRate, Trainer, TrainerConfig};
use dmd_unet::{Network, TinyAutoencoder};

use super::Part;

/// Waits for the device: asynchronous backends are done when a value is read.
fn settle<const D: usize>(tensor: Tensor<D>) -> anyhow::Result<()> {
    let read = tensor.without_autodiff().cast(FloatDType::F32).sum().into_scalar::<f32>();
    ensure!(read.is_finite(), "what was timed is not finite");
    Ok(())
}

/// Rows and columns of the matrices whose product is the measure.
pub(super) const SIDE: usize = 2048;

/// What speeds are compared with, in 10⁹ operations per second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peak {
    /// A large product of matrices on the device.
    pub(super) product: f64,
    /// The processor's registers alone; not of other devices.
    pub(super) processor: Option<f64>,
}

impl Peak {
    pub(super) fn measure(device: &Device, dtype: FloatDType) -> anyhow::Result<Self> {
        let on_cpu = dmd_kernels::device::properties(device).hardware.is_none();
        let processor = if on_cpu { dmd_kernels::device::processor_peak() } else { None };
        Ok(Self { product: product(device, dtype)?, processor: processor.map(|speed| speed / 1e9) })
    }

    /// The highest of both.
    pub(super) fn highest(self) -> f64 {
        self.processor.unwrap_or(self.product).max(self.product)
    }
}

/// What the device reaches in a product of matrices, in 10⁹ operations per second.
fn product(device: &Device, dtype: FloatDType) -> anyhow::Result<f64> {
    let mut noise = Noise::from_seed(1);
    let mut matrix = || noise.normal([SIDE, SIDE], device).cast(dtype);
    let (a, b) = (matrix(), matrix());
    let times = timed((7, false), || settle(a.clone().matmul(b.clone()).narrow(0, 0, 1)))?.times;
    let best = times.into_iter().fold(f64::INFINITY, f64::min);
    Ok(2.0 * (SIDE as f64).powi(3) / best / 1e6)
}

/// What is timed where.
pub(super) struct Bench<'a> {
    pub(super) options: &'a OpenOptions,
    pub(super) taesd: Option<&'a Path>,
    pub(super) batch: usize,
    pub(super) runs: usize,
    /// Whether the time of each operation is taken too.
    pub(super) layers: bool,
}

impl Bench<'_> {
    pub(super) fn measure(&self, part: Part) -> anyhow::Result<Measured> {
        let Self { options, taesd, .. } = *self;
        let runs = (self.runs, self.layers);
        let (device, dtype) = (&options.device, options.dtype);
        let tiny = || OpenOptions {
            autoencoder: None,
            tiny_autoencoder: taesd.map(Path::to_owned),
            ..options.clone()
        };
        if let (Part::Taesd, Some(taesd)) = (part, taesd) {
            let (network, _) = TinyAutoencoder::from_dir(taesd, device)?;
            let network = dmd_weights::cast(network, dtype);
            let [channels, height, width] =
                with_text!(&AnyText::open(&tiny())?, parts => sample_of(parts.networks()))?;
            let x = Noise::from_seed(1).normal([1, channels, height, width], device).cast(dtype);
            return timed(runs, || settle(network.decode(x.clone())));
        }
        if matches!(part, Part::Picture | Part::PictureTaesd | Part::Teacher) {
            let options = if part == Part::PictureTaesd { tiny() } else { options.clone() };
            let builder = PipelineBuilder::from(options);
            let (builder, method) = match part {
                Part::Teacher => (builder.teacher_only(), Method::teacher(50, 2.0)),
                _ => (builder.one_step_only(), Method::Distilled),
            };
            let pipeline = builder.build()?;
            let request = Request::new(["a red circle above a blue square"]).with_method(method);
            let found = timed(runs, || pipeline.generate(&request).map(drop).map_err(Into::into))?;
            return Ok(Measured { notes: pipeline.notes().to_vec(), ..found });
        }
        let networks = match part {
            Part::Guided | Part::Distillation => Networks::Teacher,
            _ => Networks::GeneratorFirst,
        };
        let options = OpenOptions { networks, ..options.clone() };
        with_model!(AnyModel::open(&options)?, model => {
            let found = self.measure_of(&model, part)?;
            Ok(Measured { notes: model.notes, ..found })
        })
    }

    /// What an opened model does.
    fn measure_of<F: Family>(&self, model: &Model<F>, part: Part) -> anyhow::Result<Measured> {
        let Self { options: OpenOptions { device, dtype, .. }, batch, .. } = *self;
        let runs = (self.runs, self.layers);
        let dtype = *dtype;
        let [channels, height, width] = model.shape();
        let mut noise = Noise::from_seed(1);
        let prompt = "a red circle above a blue square";
        let text = model.conditioner.condition(&[prompt])?;
        match part {
            Part::Text => timed(runs, || settle(model.conditioner.text_features(&[prompt])?.words)),
            Part::Unet => {
                let x = noise.normal([1, channels, height, width], device);
                let level = model.noising.level(Tensor::full([1], 999.0, device));
                let network = match &model.generator {
                    Some(generator) => &generator.network.denoiser,
                    None => model.teacher()?,
                };
                timed(runs, || settle(network.denoise(x.clone(), &level, &text)))
            }
            Part::Guided => {
                let x = noise.normal([1, channels, height, width], device);
                let level = model.noising.level(Tensor::full([1], 999.0, device));
                let teacher = model.guided(2.0, dtype)?;
                timed(runs, || settle(teacher.denoise(x.clone(), &level, &text)))
            }
            Part::Decode => {
                let x = noise.normal([1, channels, height, width], device).cast(dtype);
                timed(runs, || settle(model.codec.decode(x.clone())))
            }
            Part::Distillation => {
                let level = model.noising.at(model.noising.last_timestep());
                let network = model.teacher()?;
                let trainable = || network.clone().train();
                let generator = FewStep::new(trainable(), vec![level]);
                let d =
                    Distiller::new(generator, model.guided(2.0, dtype)?, trainable(), model.noising.clone());
                // As in training with `parallel = 2`: two halves of the batch side by side.
                let parts = if batch.is_multiple_of(2) { 2 } else { 1 };
                let last = model.noising.last_timestep();
                let matched = model.noising.times(20..=last.saturating_sub(19).max(20));
                let config = TrainerConfig {
                    accumulate: parts,
                    parallel: parts,
                    fake_updates: 1,
                    generator_rate: LearningRate::constant(1e-5, 0),
                    fake_rate: LearningRate::constant(1e-5, 0),
                    ..TrainerConfig::new(
                        [batch / parts, channels, height, width],
                        matched,
                        model.noising.times(0..=last),
                    )
                };
                let mut trainer = Trainer::new(config, d, noise, device);
                timed(runs, || {
                    let figures = trainer.step(|_, _| Ok(Batch::new(text.clone())))?;
                    figures.read().map_err(|wrong| anyhow::anyhow!("{} is {}", wrong.term, wrong.value))?;
                    Ok(())
                })
            }
            Part::Taesd | Part::Picture | Part::PictureTaesd | Part::Teacher => unreachable!("timed above"),
        }
    }
}

/// A part's figures.
pub(super) struct Measured {
    /// Milliseconds of each run.
    pub(super) times: Vec<f64>,
    /// Multiplications and additions of a run, recorded while it warmed up.
    pub(super) flops: f64,
    /// Of one more run, the time of each operation; and of the whole run.
    pub(super) layers: Option<(BTreeMap<Operation, Spent>, Duration)>,
    /// What a user should know of how the model was opened.
    pub(super) notes: Vec<String>,
}

/// Shape of a sample of a model's networks.
fn sample_of<N: Network>(networks: &NetworkFiles<N>) -> anyhow::Result<[usize; 3]> {
    Ok(N::sizes(networks.config().context("the model has no UNet")?).sample())
}

/// Times each run, after one that warms up and is recorded.
fn timed(
    (runs, layers): (usize, bool),
    mut run: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Measured> {
    let (warmed, operations) = recorded(&mut run);
    warmed?;
    let times = (0..runs).map(|_| {
        let start = Instant::now();
        run()?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    });
    let times = times.collect::<anyhow::Result<_>>()?;
    let layers = layers.then(|| {
        let start = Instant::now();
        let (outcome, spent) = clocked(&mut run);
        outcome.map(|()| (spent, start.elapsed()))
    });
    Ok(Measured { times, flops: flops(&operations), layers: layers.transpose()?, notes: Vec::new() })
}
