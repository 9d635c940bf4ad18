use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};
use clap::{Args, ValueEnum};
use dmd_core::{Denoiser, Distiller, FewStep, Noise, NoiseSchedule};
use dmd_infer::{Method, PipelineBuilder, Request};
use dmd_kernels::{flops, recorded};
use dmd_model::{
    AnyModel, AnyText, Conditioner, Family, Model, NetworkFiles, Networks, OpenOptions, TextParts,
    generator_recipe, with_model, with_text,
};
use dmd_train::{Batch, LearningRate, Trainer, TrainerConfig};
use dmd_unet::{Network, TinyAutoencoder};
use serde_json::json;

use super::{DtypeArgs, ModelArgs, PartsArgs};
use crate::console::{say, say_err};
use crate::memory;

/// Time a model's parts on this machine: median, tenth and ninetieth percentile, share of the machine's peak, memory
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    dtype: DtypeArgs,
    #[command(flatten)]
    options: PartsArgs,
    /// Parts to time [default: text, unet, decode, picture where there is a generator, and with --taesd its two]
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Timed runs of each part, after one that is not timed
    #[arg(long, default_value_t = 10)]
    runs: usize,
    /// Samples per call of a distillation iteration
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Folder of a TAESD, for the parts taesd and picture-taesd
    #[arg(long)]
    taesd: Option<PathBuf>,
    /// One JSON object per part instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The text encoder on one prompt
    Text,
    /// One unguided call of the generator's UNet, or of the teacher's where there is no generator
    Unet,
    /// One guided call of the UNet
    Guided,
    /// Latents to a picture
    Decode,
    /// Latents to a picture by TAESD
    Taesd,
    /// A whole one-step picture
    Picture,
    /// A whole one-step picture, decoded by TAESD
    PictureTaesd,
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
            Self::Taesd => "taesd",
            Self::Picture => "picture",
            Self::PictureTaesd => "picture-taesd",
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
    let options = args.options.options(&args.model, args.dtype)?;
    let tiny = |part: &Part| matches!(part, Part::Taesd | Part::PictureTaesd);
    let mut parts = args.parts.clone();
    if parts.is_empty() {
        parts = vec![Part::Text, Part::Unet, Part::Decode, Part::Picture];
        parts.extend(args.taesd.iter().flat_map(|_| [Part::Taesd, Part::PictureTaesd]));
        if generator_recipe(&options)?.is_none() {
            parts.retain(|part| !matches!(part, Part::Picture | Part::PictureTaesd));
            say_err!("note: without a distilled generator, no picture; --generator or --recipe names one");
        }
    }
    ensure!(args.taesd.is_some() || !parts.iter().any(tiny), "give --taesd FOLDER to time its parts");
    ensure!(
        !parts.contains(&Part::Distillation) || args.dtype.float() == FloatDType::F32,
        "distillation trains in f32; leave --dtype out"
    );
    let peak = peak(&options.device, options.dtype)?;
    let bench = Bench { options: &options, taesd: args.taesd.as_deref(), batch: args.batch, runs: args.runs };
    let mut said = Vec::new();
    if !args.json {
        say!("| part | median ms | 10 % | 90 % | GFLOP/s | of peak |\n| --- | --- | --- | --- | --- | --- |");
    }
    for part in parts {
        let Measured { mut times, flops, notes } = bench.measure(part)?;
        // The model is opened for each part.
        for note in notes {
            if !said.contains(&note) {
                say_err!("note: {note}");
                said.push(note);
            }
        }
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
        let (median, low, high) = (at(0.5), at(0.1), at(0.9));
        // Gradients and what other threads run are not recorded.
        let speed = (part != Part::Distillation).then_some(flops / median / 1e6);
        let share = speed.map(|speed| speed / peak);
        if args.json {
            let line = json!({
                "part": part.name(), "runs": args.runs, "batch": args.batch,
                "device": args.model.device_name(), "dtype": args.dtype.name(),
                "median_ms": median, "p10_ms": low, "p90_ms": high,
                "gflops": speed, "peak_gflops": peak, "peak_memory_bytes": memory::peak(),
            });
            say!("{line}");
        } else {
            let or_none = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
            let speed = or_none(speed.map(|speed| format!("{speed:.0}")));
            let share = or_none(share.map(|share| format!("{:.0} %", 100.0 * share)));
            say!("| {} | {median:.2} | {low:.2} | {high:.2} | {speed} | {share} |", part.name());
        }
    }
    if !args.json {
        say!("\npeak: {peak:.0} GFLOP/s, the best of several products of two {SIDE}×{SIDE} matrices");
        say!("work is counted as plain multiplications and additions: faster algorithms may exceed the peak");
        if let Some(bytes) = memory::peak() {
            say!("peak memory of this process: {:.2} GiB", bytes as f64 / f64::from(1 << 30));
        }
    }
    Ok(())
}

/// Rows and columns of the matrices whose product is the measure.
const SIDE: usize = 2048;

/// What the device reaches in a product of matrices, in 10⁹ operations per second.
fn peak(device: &Device, dtype: FloatDType) -> anyhow::Result<f64> {
    let mut noise = Noise::from_seed(1);
    let mut matrix = || noise.normal([SIDE, SIDE], device).cast(dtype);
    let (a, b) = (matrix(), matrix());
    let times = timed(7, || settle(a.clone().matmul(b.clone()).narrow(0, 0, 1)))?.times;
    let best = times.into_iter().fold(f64::INFINITY, f64::min);
    Ok(2.0 * (SIDE as f64).powi(3) / best / 1e6)
}

/// What is timed where.
struct Bench<'a> {
    options: &'a OpenOptions,
    taesd: Option<&'a Path>,
    batch: usize,
    runs: usize,
}

impl Bench<'_> {
    fn measure(&self, part: Part) -> anyhow::Result<Measured> {
        let Self { options, taesd, runs, .. } = *self;
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
        let Self { options: OpenOptions { device, dtype, .. }, batch, runs, .. } = *self;
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
struct Measured {
    /// Milliseconds of each run.
    times: Vec<f64>,
    /// Multiplications and additions of a run, recorded while it warmed up.
    flops: f64,
    /// What a user should know of how the model was opened.
    notes: Vec<String>,
}

/// Shape of a sample of a model's networks.
fn sample_of<N: Network>(networks: &NetworkFiles<N>) -> anyhow::Result<[usize; 3]> {
    Ok(N::sizes(networks.config().context("the model has no UNet")?).sample())
}

/// Times each run, after one that warms up and is recorded.
fn timed(runs: usize, mut run: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Measured> {
    let (warmed, operations) = recorded(&mut run);
    warmed?;
    let times = (0..runs).map(|_| {
        let start = Instant::now();
        run()?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    });
    let times = times.collect::<anyhow::Result<_>>()?;
    Ok(Measured { times, flops: flops(&operations), notes: Vec::new() })
}
