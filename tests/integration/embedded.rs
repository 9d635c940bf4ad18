//! The embedded model: diffusers draws the same pictures from the same noise
//! (`scripts/compare_diffusers.py`), it is small, and it does what its card says.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{FloatDType, Tensor};
use dmd::core::{Denoiser, Guided, Noise, NoiseSchedule, Prediction};
use dmd::data::shapes::{Scene, Split, read};
use dmd::infer::{Method, Pipeline, Request, TeacherSettings};
use dmd::model::pixels::from_rgb8;
use dmd::scheduler::{Sampler, SchedulerConfig};
use dmd::unet::{Autoencoder, UNet2d, UNetDenoiser};
use image::RgbImage;

use crate::support::{Fixture, device, text_encoder};

const PROMPTS: [&str; 2] =
    ["a red circle above a blue square", "a small yellow triangle left of a large purple circle"];

/// Of 100 prompts; 99 were right when the model was made.
const ONE_STEP_BAR: usize = 97;

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/shapes")
}

fn denoiser(folder: &str) -> UNetDenoiser {
    let (unet, _) = UNet2d::from_dir(&model().join(folder), &device()).unwrap();
    UNetDenoiser::new(unet, Prediction::Epsilon)
}

/// Largest difference of two pictures in [0, 1], and their mean absolute difference.
fn difference<const D: usize>(found: Tensor<D>, expected: Tensor<D>) -> (f32, f32) {
    let apart = (found - expected).abs();
    (apart.clone().max().into_scalar::<f32>(), apart.mean().into_scalar::<f32>())
}

/// Pictures in [0, 1], as diffusers hands them out.
fn shown(decoded: Tensor<4>) -> Tensor<4> {
    (decoded / 2.0 + 0.5).clamp(0.0, 1.0)
}

#[test]
fn teacher_draws_what_diffusers_draws() {
    let device = device();
    let fixture = Fixture::open("embedded");
    let text = text_encoder(&model(), &device);
    let (_, ids) = fixture.values("ids");
    let found = text.ids(&PROMPTS).unwrap().into_data().iter::<i64>().map(|id| id as f32).collect::<Vec<_>>();
    assert_eq!(found, ids, "tokens");
    let features = text.encode(&PROMPTS).unwrap();
    let (largest, _) = difference(features.clone(), fixture.tensor("text"));
    assert!(largest < 1e-4, "text features differ by {largest}");

    let scheduler: SchedulerConfig =
        dmd::weights::read_json(&model().join("scheduler/scheduler_config.json")).unwrap();
    let guided = Guided::new(denoiser("unet"), text.encode(&[""]).unwrap(), 2.0);
    let go_on = |_: usize, _: &Tensor<4>| ControlFlow::Continue(());
    let latents = scheduler.sample(&guided, 50, fixture.tensor("noise"), &features, go_on).unwrap().unwrap();
    let (largest, mean) = difference(latents.clone(), fixture.tensor("latents"));
    println!("teacher's latents after 50 guided steps: largest difference {largest}, mean {mean}");
    // Fifty guided steps carry each step's rounding (about 1e-6) on.
    assert!(largest < 5e-3, "latents differ by {largest}");
    let (autoencoder, _) = Autoencoder::from_dir(&model().join("vae"), &device).unwrap();
    let (largest, mean) = difference(shown(autoencoder.decode(latents)), fixture.tensor("teacher"));
    println!("teacher's pictures: largest difference {largest}, mean {mean}");
    // Below half a level of 255, so the files agree but for roundings at a border.
    assert!(largest < 0.5 / 255.0, "pictures differ by {largest}");
}

/// The pipeline by prompt and seed alone, and everything a request may ask for, against diffusers'
/// pipelines with a CPU generator per picture: the same pictures, to a level of 255.
#[test]
fn seeds_and_settings_mean_what_they_mean_in_diffusers() {
    let fixture = Fixture::open("embedded");
    let pipeline = Pipeline::from_dir(&model(), &device()).unwrap();
    let teacher = |steps| TeacherSettings::new(steps).with_guidance(2.0);
    let plain = Request::new(PROMPTS).with_seeds([42, 7]);
    let short = |settings: TeacherSettings| plain.clone().with_method(settings);
    let picture = RgbImage::from_fn(64, 64, |x, y| image::Rgb([(3 * x) as u8, (3 * y) as u8, 90]));
    let asked = short(teacher(10).with_negative("a blue square").with_rescale(0.5)).with_clip_skip(1);
    for (name, request) in [
        ("teacher", short(teacher(50))),
        ("one_step", plain.clone().with_method(Method::Distilled)),
        ("asked", asked),
        ("ancestral", short(teacher(10).with_sampler(Sampler::EulerAncestral))),
        ("again", short(teacher(10).with_start(picture, 0.6))),
    ] {
        let expected: Tensor<4> = fixture.tensor(name);
        let found = (from_rgb8(&pipeline.generate(&request).unwrap().pictures, &device()) + 1.0) / 2.0;
        let (largest, mean) = difference(found, expected);
        println!("{name}: largest difference {largest}, mean {mean}");
        // Half a level is the rounding to 8 bits.
        assert!(largest < 0.6 / 255.0, "{name}: pictures differ by {largest}");
    }
}

#[test]
fn one_step_draws_what_diffusers_draws() {
    let device = device();
    let fixture = Fixture::open("embedded");
    let noise: Tensor<4> = fixture.tensor("noise");
    let settings: serde_json::Value =
        dmd::weights::read_json(&model().join("unet_one_step/one_step.json")).unwrap();
    let timestep = settings["timestep"].as_f64().unwrap() as f32;
    let t = Tensor::<1>::from_floats([timestep, timestep], &device);
    let level = SchedulerConfig::stable_diffusion().schedule().level(t);
    let start = noise * settings["noise_scale"].as_f64().unwrap();
    let x0 = denoiser("unet_one_step").denoise(start, &level, &fixture.tensor("text"));
    let (largest, mean) = difference(x0.clone(), fixture.tensor("one_step_latents"));
    println!("one-step latents: largest difference {largest}, mean {mean}");
    // An epsilon error of 1e-5 times σ/α, 14.6 at the schedule's end.
    assert!(largest < 1e-3, "latents differ by {largest}");
    let (autoencoder, _) = Autoencoder::from_dir(&model().join("vae"), &device).unwrap();
    let (largest, mean) = difference(shown(autoencoder.decode(x0)), fixture.tensor("one_step"));
    println!("one-step pictures: largest difference {largest}, mean {mean}");
    assert!(largest < 0.5 / 255.0, "pictures differ by {largest}");
}

#[test]
fn the_embedded_model_is_small() {
    fn size(folder: &Path) -> u64 {
        let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        entries.map(|path| if path.is_dir() { size(&path) } else { path.metadata().unwrap().len() }).sum()
    }
    let bytes = size(&model());
    assert!(bytes <= 16_000_000, "{bytes} bytes");
}

/// A hundred held-out prompts in one step: the card's figure over 400 is 99.75 %.
#[test]
fn one_step_follows_held_out_prompts() {
    let mut noise = Noise::stream(2, "embedded");
    let scenes: Vec<Scene> = (0..100).map(|_| Scene::draw(Split::HeldOut, &mut noise)).collect();
    let pipeline = Pipeline::builder(model(), &device()).one_step_only().build().unwrap();
    let request = Request::new(scenes.iter().map(|scene| scene.caption.clone()));
    let pictures = pipeline.generate(&request).unwrap().pictures;
    let right = scenes
        .iter()
        .zip(&pictures)
        .filter(|(scene, picture)| scene.description.fits(&read(picture)))
        .count();
    println!("{right} of 100 held-out prompts right in one step");
    assert!(right >= ONE_STEP_BAR, "{right} of 100 right");
}

/// One-step pictures in half precision, against the same in single: at least 35 dB.
#[test]
fn half_precision_draws_the_same() {
    let pipeline =
        |dtype| Pipeline::builder(model(), &device()).one_step_only().dtype(dtype).build().unwrap();
    let prompts = ["a red circle above a blue square", "a small yellow triangle", "a green square"];
    let draw = |dtype| {
        let drawn = pipeline(dtype).generate(&Request::new(prompts).with_seeds([1, 2, 3])).unwrap();
        drawn.pictures.iter().flat_map(|picture| picture.as_raw().clone()).collect::<Vec<u8>>()
    };
    let single = draw(FloatDType::F32);
    for dtype in [FloatDType::F16, FloatDType::BF16] {
        if !device().supports_dtype(dtype) {
            assert!(Pipeline::builder(model(), &device()).dtype(dtype).build().is_err());
            continue;
        }
        let half = draw(dtype);
        let squares = single.iter().zip(&half).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
        let psnr = 10.0 * (255.0 * 255.0 / (squares.sum::<f64>() / single.len() as f64)).log10();
        println!("{dtype:?}: {psnr:.1} dB");
        assert!(psnr >= 35.0, "{dtype:?}: {psnr:.1} dB");
        assert!(psnr < 90.0, "{dtype:?} rounds nothing");
    }
}
