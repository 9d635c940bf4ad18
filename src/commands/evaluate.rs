use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use dmd_core::Noise;
use dmd_infer::{Method, Pipeline, Request};
use dmd_train::data::to_tensor;
use dmd_train::frechet::{FEATURE_SPACE, Moments, RandomConv};
use dmd_train::picture;
use dmd_train::reader::count_right;
use dmd_train::shapes::{Scene, Split};
use dmd_unet::Autoencoder;
use image::RgbImage;
use indicatif::{ProgressBar, ProgressStyle};

use super::ModelArgs;

/// Measure a model on held-out prompts of the shapes set: prompt accuracy and Fréchet distance
#[derive(Debug, Args)]
pub(crate) struct EvaluateArgs {
    /// Held-out prompts
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
    /// Write the first 32 pictures of each method as grids into this folder
    #[arg(long)]
    grids: Option<PathBuf>,
}

/// Real pictures that the distances are taken to.
const REAL: usize = 4000;
/// Prompts per call.
const BATCH: usize = 20;

pub(crate) fn evaluate(args: &EvaluateArgs) -> anyhow::Result<()> {
    ensure!(args.prompts >= 2, "--prompts {} is too few to measure anything", args.prompts);
    let pipeline = args.model.open()?;
    let mut noise = Noise::stream(args.seed, "evaluation");
    let scenes: Vec<Scene> = (0..args.prompts).map(|_| Scene::draw(Split::HeldOut, &mut noise)).collect();
    let space = RandomConv::new(&dmd_core::device::open("flex")?);
    let mut noise = Noise::stream(args.seed, "real pictures");
    let real: Vec<RgbImage> = (0..REAL).map(|_| Scene::draw(Split::HeldOut, &mut noise).render()).collect();
    let real = Moments::of(&space.features(&real));

    let mut distances = Vec::new();
    for steps in &args.steps {
        let guidance_scale = args.guidance.unwrap_or(pipeline.default_guidance());
        let method = match steps {
            1 => Method::OneStep,
            steps => Method::Teacher { steps: *steps, guidance_scale },
        };
        let pictures = draw(&pipeline, &scenes, method, args.seed)?;
        let right = count_right(&scenes, &pictures);
        let distance = real.distance(&Moments::of(&space.features(&pictures)));
        let share = 100.0 * right as f64 / scenes.len() as f64;
        println!(
            "{steps:3} steps: {right} of {} prompts right ({share:.2} %), Fréchet distance {distance:.4} ({FEATURE_SPACE})",
            scenes.len()
        );
        distances.push((*steps, distance));
        if let Some(folder) = &args.grids {
            let shown = &pictures[..pictures.len().min(32)];
            picture::save(&picture::grid(shown, 8), &folder.join(format!("steps-{steps}.png")))?;
        }
    }
    let of = |one: bool| distances.iter().find(|(steps, _)| (*steps == 1) == one);
    if let (Some((_, student)), Some((_, teacher))) = (of(true), of(false)) {
        println!("Fréchet distance, one step / teacher: {:.3}", student / teacher);
    }
    // What no sampler can exceed: the reader on real pictures, and on what the autoencoder keeps.
    let rendered: Vec<RgbImage> = scenes.iter().map(Scene::render).collect();
    let device = dmd_core::device::open(&args.model.device)?;
    let (autoencoder, _) = Autoencoder::from_dir(&args.model.folder().join("vae"), &device)?;
    let mut kept = Vec::with_capacity(rendered.len());
    for chunk in rendered.chunks(BATCH) {
        let latents = autoencoder.encode(to_tensor(chunk, &device)).mode();
        kept.extend(picture::from_tensor(autoencoder.decode(latents)));
    }
    println!(
        "real pictures of these prompts: {} right, after the autoencoder {}",
        count_right(&scenes, &rendered),
        count_right(&scenes, &kept)
    );
    Ok(())
}

fn draw(pipeline: &Pipeline, scenes: &[Scene], method: Method, seed: u64) -> anyhow::Result<Vec<RgbImage>> {
    let bar = ProgressBar::new(scenes.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:24} {pos}/{len} {eta} left")?);
    let mut pictures = Vec::with_capacity(scenes.len());
    for chunk in scenes.chunks(BATCH) {
        let first = seed.wrapping_mul(1_000_000).wrapping_add(pictures.len() as u64);
        let request = Request::new(chunk.iter().map(|scene| scene.caption.clone()))
            .with_seeds((0..chunk.len() as u64).map(|i| first.wrapping_add(i)))
            .with_method(method);
        pictures.extend(pipeline.generate(&request)?.pictures);
        bar.set_position(pictures.len() as u64);
    }
    bar.finish_and_clear();
    Ok(pictures)
}
