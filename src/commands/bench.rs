use std::path::Path;
use std::time::Instant;

use anyhow::ensure;
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, FloatDType, Tensor};
use clap::{Args, ValueEnum};
use dmd_core::{Denoiser, FewStep, Noise, NoiseSchedule};
use dmd_infer::{Method, Pipeline, Request};
use dmd_train::domain::{Domain, LatentDomain};
use dmd_train::{AdamW, AdamWConfig, Distiller, Draw, Terms, side_by_side};
use serde_json::json;

use super::{DtypeArgs, ModelArgs};

/// Time a model's parts on this machine: median, tenth and ninetieth percentile
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    dtype: DtypeArgs,
    /// Parts to time; all but the distillation by default
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Timed runs of each part, after one that is not
    #[arg(long, default_value_t = 10)]
    runs: usize,
    /// Samples per call of a distillation iteration
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// One JSON object per part instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The text encoder on one prompt
    Text,
    /// One unguided call of the UNet
    Unet,
    /// One guided call of the UNet
    Guided,
    /// Latents to a picture
    Decode,
    /// A whole one-step picture
    Picture,
    /// The teacher's whole picture in 50 guided steps
    Teacher,
    /// A generator's and a fake score's turn with a guided teacher, AdamW included
    Distillation,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Unet => "unet",
            Self::Guided => "guided",
            Self::Decode => "decode",
            Self::Picture => "picture",
            Self::Teacher => "teacher",
            Self::Distillation => "distillation",
        }
    }
}

/// Waits for the device: asynchronous backends are done when a value is read.
fn settle<const D: usize>(tensor: Tensor<D>) -> anyhow::Result<()> {
    let read = tensor.without_autodiff().cast(FloatDType::F32).sum().into_scalar::<f32>();
    ensure!(read.is_finite(), "what was timed is not finite");
    Ok(())
}

pub(crate) fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    ensure!(args.runs > 0, "--runs 0 times nothing");
    ensure!(args.batch > 0, "--batch 0 has no samples");
    let device = args.model.device()?;
    let parts = match args.parts.is_empty() {
        true => vec![Part::Text, Part::Unet, Part::Decode, Part::Picture],
        false => args.parts.clone(),
    };
    let (folder, dtype) = (args.model.folder(), args.dtype.float());
    let bench = Bench { folder: &folder, device: &device, dtype, batch: args.batch, runs: args.runs };
    if !args.json {
        println!("| part | median ms | 10 % | 90 % |\n| --- | --- | --- | --- |");
    }
    for part in parts {
        ensure!(
            part != Part::Distillation || args.dtype.float() == FloatDType::F32,
            "distillation trains in f32; leave --dtype out"
        );
        let mut times = bench.measure(part)?;
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
        let (median, low, high) = (at(0.5), at(0.1), at(0.9));
        if args.json {
            let line = json!({
                "part": part.name(), "runs": args.runs, "batch": args.batch,
                "device": args.model.device_name(), "dtype": args.dtype.name(),
                "median_ms": median, "p10_ms": low, "p90_ms": high,
            });
            println!("{line}");
        } else {
            println!("| {} | {median:.2} | {low:.2} | {high:.2} |", part.name());
        }
    }
    Ok(())
}

/// The median milliseconds of a part in single precision.
pub(crate) fn median(folder: &Path, part: Part, runs: usize, device: &Device) -> anyhow::Result<f64> {
    let mut times = Bench { folder, device, dtype: FloatDType::F32, batch: 1, runs }.measure(part)?;
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// What is timed where.
struct Bench<'a> {
    folder: &'a Path,
    device: &'a Device,
    dtype: FloatDType,
    batch: usize,
    runs: usize,
}

impl Bench<'_> {
    fn measure(&self, part: Part) -> anyhow::Result<Vec<f64>> {
        let Self { folder, device, dtype, batch, runs } = *self;
        if matches!(part, Part::Picture | Part::Teacher) {
            let builder = Pipeline::builder(folder, device).dtype(dtype);
            let (builder, method) = match part {
                Part::Teacher => (builder.teacher_only(), Method::Teacher { steps: 50, guidance_scale: 2.0 }),
                _ => (builder.one_step_only(), Method::OneStep),
            };
            let pipeline = builder.build()?;
            let request = Request::new(["a red circle above a blue square"]).with_method(method);
            return timed(runs, || pipeline.generate(&request).map(drop).map_err(Into::into));
        }
        let mut domain = LatentDomain::from_dir(folder, device)?;
        if dtype != FloatDType::F32 {
            domain.denoiser = domain.denoiser.in_precision(dtype);
            domain.autoencoder = dmd_weights::cast(domain.autoencoder, dtype);
        }
        let [channels, height, width] = domain.shape();
        let mut noise = Noise::from_seed(1);
        let prompt = "a red circle above a blue square";
        let text = domain.text.encode(&[prompt])?;
        match part {
            Part::Text => timed(runs, || settle(domain.text.encode(&[prompt])?)),
            Part::Unet => {
                let x = noise.normal([1, channels, height, width], device);
                let level = domain.schedule().level(Tensor::full([1], 999.0, device));
                timed(runs, || settle(domain.denoiser.denoise(x.clone(), &level, &text)))
            }
            Part::Guided => {
                let x = noise.normal([1, channels, height, width], device);
                let level = domain.schedule().level(Tensor::full([1], 999.0, device));
                let teacher = domain.guided(2.0)?;
                timed(runs, || settle(teacher.denoise(x.clone(), &level, &text)))
            }
            Part::Decode => {
                let x = noise.normal([1, channels, height, width], device).cast(dtype);
                timed(runs, || settle(domain.autoencoder.decode(x.clone())))
            }
            Part::Picture | Part::Teacher | Part::Distillation => {
                let level = domain.level(domain.last_timestep());
                let trainable = || domain.denoiser.clone().train();
                let mut d = Distiller {
                    generator: FewStep::new(trainable(), vec![level]),
                    teacher: domain.guided(2.0)?,
                    fake: trainable(),
                    schedule: domain.schedule(),
                };
                // As in training with `parallel = 2`: two halves of the batch side by side.
                let parts = if batch.is_multiple_of(2) { 2 } else { 1 };
                let shape = [batch / parts, channels, height, width];
                let times = domain.times(20..=domain.last_timestep().saturating_sub(19).max(20));
                let mut adam = [AdamW::new(AdamWConfig::default()), AdamW::new(AdamWConfig::default())];
                let share = 1.0 / parts as f64;
                timed(runs, || {
                    let mut draws = || {
                        (0..parts).map(|_| Draw::new(&mut noise, shape, &times, device)).collect::<Vec<_>>()
                    };
                    let (first, second) = (draws(), draws());
                    let turns = side_by_side(first, parts, |draw| {
                        let d = d.fork();
                        let loss = d.generator_loss_of(&draw, &Terms::default(), &text);
                        let mut grads = (loss.total * share).backward();
                        (GradientsParams::from_module(&mut grads, &d.generator), loss.x)
                    });
                    let (mut sum, mut samples) = (GradientsAccumulator::new(), Vec::new());
                    for (grads, x) in turns {
                        sum.accumulate(&d.generator, grads);
                        samples.push(x);
                    }
                    (d.generator, _) = adam[0].step(1e-5, d.generator.clone(), sum.grads());
                    let turns = samples.into_iter().zip(second).collect();
                    let turns = side_by_side(turns, parts, |(x, draw)| {
                        let d = d.fork();
                        let mut grads = (d.fake_loss(x, &draw, &text) * share).backward();
                        GradientsParams::from_module(&mut grads, &d.fake)
                    });
                    let mut sum = GradientsAccumulator::new();
                    turns.into_iter().for_each(|grads| sum.accumulate(&d.fake, grads));
                    (d.fake, _) = adam[1].step(1e-5, d.fake.clone(), sum.grads());
                    Ok(())
                })
            }
        }
    }
}

/// Milliseconds of each run, after one that warms up.
fn timed(runs: usize, mut run: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Vec<f64>> {
    run()?;
    (0..runs)
        .map(|_| {
            let start = Instant::now();
            run()?;
            Ok(start.elapsed().as_secs_f64() * 1e3)
        })
        .collect()
}
