use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use dmd_infer::{ClassPipeline, Method, NoiseSource, Pipeline, Request, Start, encode_png_with};
use dmd_scheduler::Sampler;
use dmd_train::domain::Kind;
use dmd_weights::write_atomic;

use super::progress::Steps;
use super::{DtypeArgs, ModelArgs};
use crate::console::say;

/// Draw pictures of prompts
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// What to draw; several prompts draw several pictures (names of classes for a model on pixels)
    #[arg(required = true)]
    prompts: Vec<String>,
    /// Seed of the first picture; the next ones count up
    #[arg(long, default_value_t = 0, value_parser = super::seed, allow_negative_numbers = true)]
    seed: u64,
    /// Whose random numbers a seed stands for
    #[arg(long, value_enum, default_value_t = NoiseArg::TorchCpu)]
    noise: NoiseArg,
    /// Pictures per prompt
    #[arg(long, default_value_t = 1)]
    count: usize,
    /// 1, or as many as the generator was distilled for, draws with it; other numbers with the teacher
    #[arg(long, default_value_t = 1)]
    steps: usize,
    /// The teacher's timesteps instead of a number of steps, e.g. 981,721,441,181
    #[arg(long, value_delimiter = ',', conflicts_with = "steps")]
    timesteps: Option<Vec<usize>>,
    /// The teacher's sampler: ddim, ddpm, pndm, euler, euler-ancestral, heun, dpm++, unipc, lcm
    #[arg(long)]
    sampler: Option<Sampler>,
    /// Classifier-free guidance of the teacher [default: what the generator was distilled with, or 7.5]
    #[arg(long)]
    guidance: Option<f64>,
    /// Keep guidance from widening the output's deviation, by this share
    #[arg(long, default_value_t = 0.0)]
    guidance_rescale: f64,
    /// What pictures should not show (teacher only)
    #[arg(long)]
    negative: Option<String>,
    /// Layers of the text encoder to leave out at its end
    #[arg(long, default_value_t = 0)]
    clip_skip: usize,
    /// A picture to start from (teacher only)
    #[arg(long)]
    init: Option<PathBuf>,
    /// How much of that picture is drawn anew, from 0 to 1
    #[arg(long, default_value_t = 0.8, requires = "init")]
    strength: f64,
    /// Width and height in pixels, e.g. 512x768 [default: the model's own]
    #[arg(long, value_parser = size)]
    size: Option<(usize, usize)>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    dtype: DtypeArgs,
    /// One-step generator: a UNet folder or a bare state dict [default: unet_one_step of the model]
    #[arg(long)]
    generator: Option<PathBuf>,
    /// Folder of an AutoencoderTiny (TAESD) that decodes in place of the full autoencoder
    #[arg(long)]
    taesd: Option<PathBuf>,
    /// Decode large pictures in overlapping tiles of this many latents a side
    #[arg(long)]
    tile: Option<usize>,
    /// PNG to write; several pictures are numbered
    #[arg(long, default_value = "picture.png")]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NoiseArg {
    /// PyTorch's CPU generator
    TorchCpu,
    /// PyTorch's CUDA generator
    TorchCuda,
}

/// `WIDTHxHEIGHT` as `(height, width)`.
fn size(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once(['x', '×']);
    let parts = parts.and_then(|(w, h)| Some((h.parse().ok()?, w.parse().ok()?)));
    parts.ok_or_else(|| format!("{text:?} is no size; write e.g. 512x768"))
}

impl GenerateArgs {
    /// Seed of the first picture.
    #[cfg(test)]
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    fn open(&self) -> anyhow::Result<Pipeline> {
        let mut builder = self.model.builder(self.dtype)?;
        if let Some(path) = &self.generator {
            builder = builder.generator(path);
        }
        if let Some(folder) = &self.taesd {
            builder = builder.tiny_autoencoder(folder);
        }
        if let Some(side) = self.tile {
            builder = builder.tiles(side);
        }
        let generator = builder.generator_steps()?;
        ensure!(
            self.steps != 1 || generator.is_none_or(|steps| steps == 1),
            "this generator was distilled for {} steps; ask for --steps {0}",
            generator.unwrap_or(1)
        );
        // Half the networks stay on the disk.
        builder = if self.distilled(generator) { builder.one_step_only() } else { builder.teacher_only() };
        Ok(builder.build()?)
    }

    /// Whether the generator draws, which takes so many steps.
    fn distilled(&self, generator: Option<usize>) -> bool {
        let steps = self.timesteps.as_ref().map_or(self.steps, Vec::len);
        let plain = self.guidance.is_none() && self.sampler.is_none() && self.timesteps.is_none();
        steps == 1 || (plain && Some(steps) == generator)
    }

    fn request(&self, pipeline: &Pipeline) -> anyhow::Result<Request> {
        let prompts = self.prompts.iter().flat_map(|prompt| vec![prompt.clone(); self.count]);
        let request = Request::new(prompts);
        let count = request.prompts.len() as u64;
        let start = match &self.init {
            None => Start::Noise,
            Some(path) => {
                let picture = image::open(path).with_context(|| format!("cannot read {path:?}"))?;
                Start::Picture { picture: picture.to_rgb8(), strength: self.strength }
            }
        };
        let method = if self.distilled(pipeline.generator_steps()) {
            ensure!(
                self.guidance.is_none_or(|scale| scale == 1.0),
                "one step is drawn without guidance: the generator was distilled from a guided teacher; leave --guidance out, or ask for more steps"
            );
            Method::OneStep
        } else {
            let guidance_scale = self.guidance.unwrap_or(pipeline.default_guidance());
            Method::Teacher { steps: self.steps, guidance_scale }
        };
        Ok(Request {
            size: self.size,
            noise: match self.noise {
                NoiseArg::TorchCpu => NoiseSource::TorchCpu,
                NoiseArg::TorchCuda => NoiseSource::TorchCuda,
            },
            start,
            clip_skip: self.clip_skip,
            negative_prompt: self.negative.clone(),
            sampler: self.sampler,
            timesteps: self.timesteps.clone(),
            guidance_rescale: self.guidance_rescale,
            ..request.with_seeds((0..count).map(|i| self.seed.wrapping_add(i))).with_method(method)
        })
    }
}

pub(crate) fn generate(args: &GenerateArgs) -> anyhow::Result<()> {
    ensure!(args.count > 0, "--count 0 draws nothing; ask for at least 1");
    if Kind::of(&args.model.folder()).is_ok_and(|kind| kind == Kind::Pixels) {
        return generate_classes(args);
    }
    let start = std::time::Instant::now();
    let pipeline = args.open()?;
    let loading = start.elapsed();
    let request = args.request(&pipeline)?;
    let mut steps = Steps::new()?;
    let drawn = pipeline.generate_with(&request, &mut steps)?;
    drop(steps);
    let model = args.model.folder();
    let model = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for (i, picture) in drawn.pictures.iter().enumerate() {
        let path = numbered(&args.out, i, drawn.pictures.len());
        let parameters = request.describe(i, drawn.seeds[i], picture.dimensions(), &model);
        write_atomic(&path, &encode_png_with(picture, &[("parameters", &parameters)])?)?;
        say!("{}  seed {}  {:?}", path.display(), drawn.seeds[i], request.prompts[i]);
    }
    let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
    let t = drawn.timings;
    say!(
        "{:.1} ms: text {:.1}, denoising {:.1}, decoding {:.1}; the model was read in {:.1} ms",
        ms(t.total()),
        ms(t.text),
        ms(t.denoising),
        ms(t.decoding),
        ms(loading)
    );
    Ok(())
}

/// Pictures of classes, from a model on pixels: the prompts are names of classes.
fn generate_classes(args: &GenerateArgs) -> anyhow::Result<()> {
    let text_only = [
        ("--sampler", args.sampler.is_some()),
        ("--timesteps", args.timesteps.is_some()),
        ("--negative", args.negative.is_some()),
        ("--init", args.init.is_some()),
        ("--size", args.size.is_some()),
        ("--generator", args.generator.is_some()),
        ("--taesd", args.taesd.is_some()),
        ("--tile", args.tile.is_some()),
        ("--guidance-rescale", args.guidance_rescale != 0.0),
        ("--clip-skip", args.clip_skip != 0),
        ("--noise", args.noise != NoiseArg::TorchCpu),
    ];
    if let Some((option, _)) = text_only.iter().find(|(_, given)| *given) {
        anyhow::bail!("{option} is for text-to-image models; this model draws classes from pixels' noise");
    }
    let pipeline = ClassPipeline::from_dir(&args.model.folder(), &args.model.device()?)?
        .in_precision(args.dtype.float())?;
    let distilled = args.steps == 1 || Some(args.steps) == pipeline.generator_steps();
    let method = match distilled && args.guidance.is_none() {
        true => Method::OneStep,
        false => Method::Teacher {
            steps: args.steps,
            guidance_scale: args.guidance.unwrap_or(pipeline.default_guidance()),
        },
    };
    let classes: Vec<&str> = args.prompts.iter().flat_map(|class| vec![class.as_str(); args.count]).collect();
    let seeds: Vec<u64> = (0..classes.len() as u64).map(|i| args.seed.wrapping_add(i)).collect();
    let start = std::time::Instant::now();
    let pictures = pipeline.generate(&classes, &seeds, method)?;
    for (i, picture) in pictures.iter().enumerate() {
        let path = numbered(&args.out, i, pictures.len());
        let parameters = format!("class: {}, seed: {}, steps: {}", classes[i], seeds[i], args.steps);
        write_atomic(&path, &encode_png_with(picture, &[("parameters", &parameters)])?)?;
        say!("{}  seed {}  {:?}", path.display(), seeds[i], classes[i]);
    }
    say!("{:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

/// `picture.png` for one picture, `picture-1.png`, `picture-2.png`, .. for several.
fn numbered(path: &Path, index: usize, count: usize) -> PathBuf {
    if count == 1 {
        return path.to_owned();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map_or("png".into(), |e| e.to_string_lossy());
    path.with_file_name(format!("{stem}-{}.{extension}", index + 1))
}
