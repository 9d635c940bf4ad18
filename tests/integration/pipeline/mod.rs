//! The pipeline as a library user meets it, on a tiny model of random weights.

mod parts;
mod settings;

use burn::tensor::{Tensor, Tolerance};
use dmd::core::{Denoiser, FewStep, Level, Noise, NoiseSchedule, Prediction};
use dmd::infer::{CancelToken, Error, Method, Observer, Pipeline, Progress, Request, Stage, TeacherSettings};
use dmd::scheduler::SchedulerConfig;
use dmd::unet::{Autoencoder, Network, UNet2d, UNetDenoiser};

use crate::support::{device, tiny_model};

fn four_steps() -> TeacherSettings {
    TeacherSettings::new(4).with_guidance(3.0)
}

fn pipeline() -> (tempfile::TempDir, Pipeline) {
    let model = tiny_model();
    let pipeline = Pipeline::from_dir(model.path(), &device()).unwrap();
    (model, pipeline)
}

/// One step is the x0 of one network call at t = 999 on unit noise, decoded.
#[test]
fn one_step_is_the_published_recipe() {
    let (model, pipeline) = pipeline();
    let device = device();
    let z = pipeline.noise(&[7], 32, 32);
    let text = pipeline.encode_prompt(&["a red circle"]).unwrap().words;
    let (unet, _) = UNet2d::from_dir(&model.path().join("unet_one_step"), &device).unwrap();
    let t = Tensor::<1>::from_floats([999.0], &device);
    let level = SchedulerConfig::stable_diffusion().schedule().level(t);
    let x0 = UNetDenoiser::new(unet, Prediction::Epsilon).denoise(z.clone(), &level, &text);
    // By hand: (z − 0.997667 ε) · 14.648814.
    let (unet, _) = UNet2d::from_dir(&model.path().join("unet_one_step"), &device).unwrap();
    let eps = unet.forward(z.clone(), level.t.clone(), &text);
    let by_hand = (z - eps * 0.997_667) * 14.648_814;
    // 1/√ᾱ multiplies the rounding of the six-digit constants by 14.6.
    x0.clone().into_data().assert_approx_eq::<f32>(&by_hand.into_data(), Tolerance::rel_abs(1e-4, 1e-4));
    let (autoencoder, _) = Autoencoder::from_dir(&model.path().join("vae"), &device).unwrap();
    let expected = dmd::model::pixels::to_rgb8(autoencoder.decode(x0));
    let drawn = pipeline.generate(&Request::new(["a red circle"]).with_seeds([7])).unwrap();
    assert_eq!(drawn.pictures[0].as_raw(), expected[0].as_raw());
}

/// A picture depends on its own prompt and seed, not on its batch.
#[test]
fn a_batch_is_its_singles() {
    let (_model, pipeline) = pipeline();
    for method in [Method::Distilled, four_steps().into()] {
        let request = Request::new(["red", "a blue square", "circle"])
            .with_seeds([3, 5, 3])
            .with_method(method.clone());
        let batch = pipeline.generate(&request).unwrap();
        for i in 0..3 {
            let single = Request::new([request.prompts[i].clone()])
                .with_seeds([request.seeds[i]])
                .with_method(method.clone());
            let single = pipeline.generate(&single).unwrap();
            for (a, b) in single.pictures[0].as_raw().iter().zip(batch.pictures[i].as_raw()) {
                // Sums in another order may move a value across a rounding border: one level.
                assert!(a.abs_diff(*b) <= 1, "{method:?}, picture {i}");
            }
        }
    }
}

#[test]
fn seeds_and_sizes() {
    let (_model, pipeline) = pipeline();
    let draw = |seed| pipeline.generate(&Request::new(["x"]).with_seeds([seed])).unwrap().pictures[0].clone();
    assert_eq!(draw(1).as_raw(), draw(1).as_raw());
    assert_ne!(draw(1).as_raw(), draw(2).as_raw());
    assert_eq!(draw(1).dimensions(), (32, 32));
    let wide = Request::new(["x"]).with_size(16, 40);
    assert_eq!(pipeline.generate(&wide).unwrap().pictures[0].dimensions(), (40, 16));
    let unnamed = pipeline.generate(&Request::new(["x", "y"])).unwrap();
    assert_eq!(unnamed.seeds, [0, 1]);
}

/// Sees everything, and ends the request at a step.
#[derive(Default)]
struct Watcher {
    stages: Vec<Stage>,
    steps: Vec<(usize, usize)>,
    last: Option<usize>,
    last_stage: Option<Stage>,
}

impl Observer for Watcher {
    fn on_stage(&mut self, stage: Stage) {
        self.stages.push(stage);
    }

    fn on_step(&mut self, progress: &Progress<'_>) {
        assert_eq!(progress.x0.dims(), [1, 4, 8, 8]);
        self.steps.push((progress.step, progress.steps));
    }

    fn cancelled(&self) -> bool {
        self.last.is_some_and(|last| self.steps.len() >= last)
            || self.last_stage.is_some_and(|stage| self.stages.contains(&stage))
    }
}

#[test]
fn an_observer_sees_every_step_and_may_break_off() {
    let (_model, pipeline) = pipeline();
    let request = Request::new(["x"]).with_method(four_steps());
    let mut watcher = Watcher::default();
    pipeline.generate_with(&request, &mut watcher).unwrap();
    assert_eq!(watcher.steps, [(1, 4), (2, 4), (3, 4), (4, 4)]);
    assert_eq!(watcher.stages, [Stage::Text, Stage::Denoising, Stage::Decoding]);
    for last in [1, 2, 4] {
        let mut watcher = Watcher { last: Some(last), ..Watcher::default() };
        let cancelled = pipeline.generate_with(&request, &mut watcher);
        assert!(matches!(cancelled, Err(Error::Cancelled { steps }) if steps == last));
    }
    for (stage, done) in [(Stage::Text, 0), (Stage::Denoising, 0), (Stage::Decoding, 4)] {
        let mut watcher = Watcher { last_stage: Some(stage), ..Watcher::default() };
        let cancelled = pipeline.generate_with(&request, &mut watcher);
        assert!(matches!(cancelled, Err(Error::Cancelled { steps }) if steps == done), "at {stage:?}");
    }
    // A token that was cancelled before the request ends it before the first network call.
    let token = CancelToken::new();
    pipeline.generate_with(&request, &mut token.clone()).unwrap();
    token.cancel();
    for request in [request, Request::new(["x"])] {
        let cancelled = pipeline.generate_with(&request, &mut token.clone());
        assert!(matches!(cancelled, Err(Error::Cancelled { steps: 0 })));
    }
}

/// A generator that was distilled for four steps takes them, with fresh noise from the seed between; it
/// is what `FewStep` does with the same noises, and it knows no other number of steps.
#[test]
fn four_step_generators() {
    let (model, _) = pipeline();
    let path = model.path().join("unet_one_step/one_step.json");
    let timesteps = [999, 749, 499, 249];
    dmd::weights::write_json(&path, &serde_json::json!({ "timesteps": timesteps })).unwrap();
    let pipeline = Pipeline::from_dir(model.path(), &device()).unwrap();
    assert_eq!(pipeline.generator_steps(), Some(4));
    let text = pipeline.describe(&Request::new(["x"]), 0, (32, 32), "tiny");
    assert!(text.contains("Steps: 4"), "{text}");
    let mut watcher = Watcher::default();
    let drawn = pipeline.generate_with(&Request::new(["x"]).with_seeds([9]), &mut watcher).unwrap();
    assert_eq!(watcher.steps, [(1, 4), (2, 4), (3, 4), (4, 4)]);

    let (unet, _) = UNet2d::from_dir(&model.path().join("unet_one_step"), &device()).unwrap();
    let schedule = SchedulerConfig::stable_diffusion().schedule();
    let level = |t: usize| {
        let (alpha, sigma) = schedule.alpha_sigma(t);
        Level { t: t as f64, alpha, sigma }
    };
    let levels = timesteps.into_iter().map(level).collect();
    let generator = FewStep::new(UNetDenoiser::new(unet, Prediction::Epsilon), levels);
    let mut noise = Noise::torch_cpu(9);
    let z = noise.normal([1, 4, 8, 8], &device());
    let text = pipeline.encode_prompt(&["x"]).unwrap().words;
    let x0 = generator.generate(z, &text, &mut || noise.normal([1, 4, 8, 8], &device()));
    assert_eq!(pipeline.decode(x0).unwrap()[0].as_raw(), drawn.pictures[0].as_raw());

    for damaged in [vec![], vec![500, 600], vec![1000]] {
        dmd::weights::write_json(&path, &serde_json::json!({ "timesteps": damaged })).unwrap();
        let message = Pipeline::from_dir(model.path(), &device()).unwrap_err().to_string();
        assert!(message.contains("one_step.json"), "{message}");
    }
}
