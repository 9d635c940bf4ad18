use std::path::{Path, PathBuf};

use anyhow::ensure;
use burn::tensor::Device;
use clap::Args;
use dmd_clip::{ClipModel, Tokenizer};
use dmd_core::Noise;
use dmd_infer::{Method, Pipeline, Request};
use dmd_train::data::{ImageFolder, to_tensor};
use dmd_train::frechet::{FeatureSpace, InceptionSpace, Moments, RandomConv, ratio_error};
use dmd_train::manifold::{Coverage, coverage};
use dmd_train::picture;
use dmd_train::reader::{count_right, read};
use dmd_train::shapes::{Scene, Split};
use dmd_unet::Autoencoder;
use image::RgbImage;
use image::imageops::{FilterType, crop_imm, resize};
use indicatif::{ProgressBar, ProgressStyle};

use super::{DtypeArgs, ModelArgs};
use crate::console::{say, say_part};

/// Measure a model: Fréchet distance, precision, recall, prompt accuracy, CLIP score
#[derive(Debug, Args)]
pub(crate) struct EvaluateArgs {
    /// Prompts: held-out ones of the shapes set, or the first captions of --data
    #[arg(long, default_value_t = 400)]
    prompts: usize,
    /// Steps to measure; 1 is the one-step generator
    #[arg(long, value_delimiter = ',', default_values_t = [50, 1])]
    steps: Vec<usize>,
    /// Classifier-free guidance of the teacher [default: what the generator was distilled with]
    #[arg(long)]
    guidance: Option<f64>,
    /// Seed of prompts and pictures
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    model: ModelArgs,
    /// One-step generator: a UNet folder or a bare state dict [default: unet_one_step of the model]
    #[arg(long)]
    generator: Option<PathBuf>,
    #[command(flatten)]
    dtype: DtypeArgs,
    /// Folder of real pictures with metadata.jsonl in place of the shapes set; prompts are its captions
    #[arg(long)]
    data: Option<PathBuf>,
    /// Inception's file (pt_inception-2015-12-05-6726825d, .pth or .safetensors) in place of the fixed small network
    #[arg(long)]
    inception: Option<PathBuf>,
    /// Folder of a CLIPModel with its tokenizer, for the CLIP score
    #[arg(long)]
    clip: Option<PathBuf>,
    /// Write the first 32 pictures of each method as grids into this folder, and those that are not what was asked for
    #[arg(long)]
    grids: Option<PathBuf>,
}

/// Real pictures that the distances are taken to.
const REAL: usize = 4000;
/// Prompts per call.
const BATCH: usize = 20;
/// Most pictures that precision and recall compare.
const COMPARED: usize = 2000;
/// Neighbours of precision and recall (Kynkäänniemi et al. 2019).
const NEIGHBOURS: usize = 3;

/// What is asked for, and the real pictures it is compared with.
struct Task {
    captions: Vec<String>,
    /// What the captions describe, where that is known.
    scenes: Vec<Scene>,
    real: Vec<RgbImage>,
}

impl EvaluateArgs {
    fn task(&self, side: u32) -> anyhow::Result<Task> {
        let Some(path) = &self.data else {
            let mut noise = Noise::stream(self.seed, "evaluation");
            let scenes: Vec<Scene> =
                (0..self.prompts).map(|_| Scene::draw(Split::HeldOut, &mut noise)).collect();
            let mut noise = Noise::stream(self.seed, "real pictures");
            let real = (0..REAL).map(|_| Scene::draw(Split::HeldOut, &mut noise).render()).collect();
            return Ok(Task { captions: scenes.iter().map(|s| s.caption.clone()).collect(), scenes, real });
        };
        let folder = ImageFolder::open(path, side)?;
        let captions: Vec<String> = folder.captions().take(self.prompts).map(str::to_owned).collect();
        let real = (0..folder.len()).map(|i| Ok(folder.get(i)?.image)).collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(real.len() >= 2 && captions.len() >= 2, "{path:?} has too few pictures to measure anything");
        Ok(Task { captions, scenes: Vec::new(), real })
    }
}

/// CLIP with its tokenizer.
struct ClipScore {
    model: ClipModel,
    tokenizer: Tokenizer,
    side: u32,
    device: Device,
}

impl ClipScore {
    fn from_dir(folder: &Path, device: &Device) -> anyhow::Result<Self> {
        let (model, config) = ClipModel::from_dir(folder, device)?;
        let tokenizer = Tokenizer::from_dir(folder, config.text_config.max_position_embeddings)?;
        let side = u32::try_from(config.vision_config.image_size)?;
        Ok(Self { model, tokenizer, side, device: device.clone() })
    }

    /// Mean cosine of pictures and captions.
    fn of(&self, pictures: &[RgbImage], captions: &[String]) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for (pictures, captions) in pictures.chunks(BATCH).zip(captions.chunks(BATCH)) {
            // CLIP's own preparation: the shorter side to the network's by a cubic filter, the middle cut out.
            let prepared: Vec<RgbImage> = pictures
                .iter()
                .map(|picture| {
                    let (width, height) = picture.dimensions();
                    let scale = f64::from(self.side) / f64::from(width.min(height));
                    let to = |length: u32| ((f64::from(length) * scale).round() as u32).max(self.side);
                    let resized = resize(picture, to(width), to(height), FilterType::CatmullRom);
                    let (x, y) = ((resized.width() - self.side) / 2, (resized.height() - self.side) / 2);
                    crop_imm(&resized, x, y, self.side, self.side).to_image()
                })
                .collect();
            let pixels = ClipModel::pixels((to_tensor(&prepared, &self.device) + 1.0) / 2.0);
            let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
            sum += self.model.cosines(pixels, &captions, &self.tokenizer)?.iter().sum::<f64>();
        }
        Ok(sum / pictures.len() as f64)
    }
}

pub(crate) fn evaluate(args: &EvaluateArgs) -> anyhow::Result<()> {
    ensure!(args.prompts >= 2, "--prompts {} is too few to measure anything", args.prompts);
    let mut builder = args.model.builder(args.dtype)?;
    if let Some(path) = &args.generator {
        builder = builder.generator(path);
    }
    let pipeline = builder.build()?;
    let device = args.model.device()?;
    let (_, width) = pipeline.default_size();
    let task = args.task(u32::try_from(width)?)?;
    let space: Box<dyn FeatureSpace> = match &args.inception {
        Some(path) => Box::new(InceptionSpace::from_file(path, &device)?),
        None => Box::new(RandomConv::new(&device)),
    };
    let clip = args.clip.as_ref().map(|folder| ClipScore::from_dir(folder, &device)).transpose()?;
    let real = space.features(&task.real);
    let moments = Moments::of(&real);

    let mut measured = Vec::new();
    for steps in &args.steps {
        let guidance_scale = args.guidance.unwrap_or(pipeline.default_guidance());
        let method = match steps {
            1 => Method::Distilled,
            steps => Method::teacher(*steps, guidance_scale),
        };
        let pictures = draw(&pipeline, &task.captions, &method, args.seed)?;
        let features = space.features(&pictures);
        let distance = moments.distance(&Moments::of(&features));
        say_part!("{steps:3} steps: ");
        if !task.scenes.is_empty() {
            let right = count_right(&task.scenes, &pictures);
            let share = 100.0 * right as f64 / task.scenes.len() as f64;
            say_part!("{right} of {} prompts right ({share:.2} %), ", task.scenes.len());
        }
        say_part!("Fréchet distance {distance:.4} ({})", space.name());
        let compared = &real[..real.len().min(COMPARED)];
        if compared.len() > NEIGHBOURS && features.len() > NEIGHBOURS {
            let Coverage { precision, recall } = coverage(compared, &features, NEIGHBOURS);
            say_part!(", precision {precision:.3}, recall {recall:.3}");
        }
        if let Some(clip) = &clip {
            say_part!(", CLIP score {:.4}", clip.of(&pictures, &task.captions)?);
        }
        say!("");
        measured.push((*steps, distance, features));
        if let Some(folder) = &args.grids {
            let shown = &pictures[..pictures.len().min(32)];
            picture::save(&picture::grid(shown, 8), &folder.join(format!("steps-{steps}.png")))?;
            let both = task.scenes.iter().zip(&pictures);
            let wrong: Vec<(&Scene, &RgbImage)> =
                both.filter(|(scene, picture)| !scene.description.fits(&read(picture))).collect();
            if !wrong.is_empty() {
                let shown: Vec<RgbImage> = wrong.iter().map(|(_, picture)| (*picture).clone()).collect();
                picture::save(&picture::grid(&shown, 8), &folder.join(format!("steps-{steps}-wrong.png")))?;
                for (scene, _) in wrong {
                    say!("          wrong: {}", scene.caption);
                }
            }
        }
    }
    let of = |one: bool| measured.iter().find(|(steps, ..)| (*steps == 1) == one);
    if let (Some((_, student, one)), Some((_, teacher, many))) = (of(true), of(false)) {
        say_part!("Fréchet distance, one step / teacher: {:.3}", student / teacher);
        if let Some(error) = ratio_error(&moments, one, many) {
            say_part!(" (standard error {error:.3})");
        }
        say!("");
    }
    if task.scenes.is_empty() {
        return Ok(());
    }
    // What no sampler can exceed: the reader on real pictures, and on what the autoencoder keeps. Their distance is
    // that of so few pictures to the many, whoever draws them.
    let rendered: Vec<RgbImage> = task.scenes.iter().map(Scene::render).collect();
    let (autoencoder, _) = Autoencoder::from_dir(&args.model.folder().join("vae"), &device)?;
    let mut kept = Vec::with_capacity(rendered.len());
    for chunk in rendered.chunks(BATCH) {
        let latents = autoencoder.encode(to_tensor(chunk, &device)).mode();
        kept.extend(picture::from_tensor(autoencoder.decode(latents)));
    }
    for (what, pictures) in [("real pictures of these prompts", rendered), ("after the autoencoder", kept)] {
        let right = count_right(&task.scenes, &pictures);
        let distance = moments.distance(&Moments::of(&space.features(&pictures)));
        say!("{what}: {right} right, Fréchet distance {distance:.4}");
    }
    Ok(())
}

fn draw(
    pipeline: &Pipeline,
    captions: &[String],
    method: &Method,
    seed: u64,
) -> anyhow::Result<Vec<RgbImage>> {
    let bar = ProgressBar::new(captions.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:24} {pos}/{len} {eta} left")?);
    let mut pictures = Vec::with_capacity(captions.len());
    for chunk in captions.chunks(BATCH) {
        let first = seed.wrapping_mul(1_000_000).wrapping_add(pictures.len() as u64);
        let request = Request::new(chunk.to_vec())
            .with_seeds((0..chunk.len() as u64).map(|i| first.wrapping_add(i)))
            .with_method(method.clone());
        pictures.extend(pipeline.generate(&request)?.pictures);
        bar.set_position(pictures.len() as u64);
    }
    bar.finish_and_clear();
    Ok(pictures)
}
