//! The pipeline as a library user meets it, on a tiny model of random weights.

use std::fs;

use crate::support::{device, golden, tiny_model};
use burn::tensor::{Tensor, Tolerance};
use dmd::core::{Denoiser, FewStep, Level, Noise, NoiseSchedule, Prediction};
use dmd::infer::{
    CancelToken, Embeddings, Error, Method, NoiseSource, Observer, Pipeline, Progress, Request, Stage,
    TeacherSettings, from_rgb8,
};
use dmd::scheduler::{Sampler, SchedulerConfig};
use dmd::unet::{Autoencoder, Network, UNet2d, UNetDenoiser};
use image::RgbImage;

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
    let text = pipeline.encode_prompt(&["a red circle"]).unwrap();
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
    let expected = dmd::infer::to_rgb8(autoencoder.decode(x0));
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
    // A token that was cancelled before the request ends it before the first network call.
    let token = CancelToken::new();
    pipeline.generate_with(&request, &mut token.clone()).unwrap();
    token.cancel();
    for request in [request, Request::new(["x"])] {
        let cancelled = pipeline.generate_with(&request, &mut token.clone());
        assert!(matches!(cancelled, Err(Error::Cancelled { steps: 0 })));
    }
}

fn teacher(prompt: &str) -> Request {
    Request::new([prompt]).with_method(four_steps())
}

/// Asserts that two requests draw the same picture, or different ones.
fn same(pipeline: &Pipeline, a: &Request, b: &Request) -> bool {
    let draw = |request| pipeline.generate(request).unwrap().pictures[0].clone();
    draw(a).as_raw() == draw(b).as_raw()
}

#[test]
fn every_setting_of_the_teacher_is_heard() {
    let (_model, pipeline) = pipeline();
    let prompt = "a red circle";
    let told = |settings: TeacherSettings| Request::new([prompt]).with_method(settings);
    let plain = teacher(prompt);
    assert!(!same(&pipeline, &plain, &told(four_steps().with_negative("blue"))));
    // An empty negative prompt is the unconditional branch itself.
    assert!(same(&pipeline, &plain, &told(four_steps().with_negative(""))));
    assert!(!same(&pipeline, &plain, &plain.clone().with_clip_skip(1)));
    assert!(!same(&pipeline, &plain, &told(four_steps().with_rescale(0.7))));
    assert!(!same(&pipeline, &plain, &plain.clone().with_noise(NoiseSource::TorchCuda)));
    for sampler in Sampler::ALL.into_iter().filter(|sampler| *sampler != Sampler::Ddim) {
        let other = told(four_steps().with_sampler(sampler));
        assert!(!same(&pipeline, &plain, &other), "{sampler:?}");
        // What a sampler draws between its steps comes from the seed too.
        assert!(same(&pipeline, &other, &other.clone()), "{sampler:?}");
    }
    // The four steps' own timesteps, by name: DDIM's stride from 751 is the same 250.
    let listed = |list: &[usize]| told(TeacherSettings::new(list.to_vec()).with_guidance(3.0));
    assert!(same(&pipeline, &plain, &listed(&[751, 501, 251, 1])));
    assert!(!same(&pipeline, &plain, &listed(&[751, 501, 1])));
    // Without a guidance of its own a request takes the model's.
    let guided = Request::new([prompt]).with_method(TeacherSettings::new(4));
    assert!(same(
        &pipeline,
        &guided,
        &told(TeacherSettings::new(4).with_guidance(pipeline.default_guidance()))
    ));
}

#[test]
fn given_latents_and_embeddings_stand_for_seed_and_prompt() {
    let (_model, pipeline) = pipeline();
    for method in [Method::Distilled, four_steps().into()] {
        let plain = Request::new(["a red circle"]).with_seeds([7]).with_method(method.clone());
        let z = pipeline.noise(&[7], 32, 32);
        let latents = plain.clone().with_latents(z.clone());
        assert!(same(&pipeline, &plain, &latents));
        let prompt = pipeline.encode_prompt(&["a red circle"]).unwrap();
        let guided = matches!(method, Method::Teacher(_));
        let negative = guided.then(|| pipeline.encode_prompt(&[""]).unwrap());
        let embeddings = Embeddings { prompt: prompt.clone(), negative };
        let nobody: [&str; 0] = [];
        let embedded =
            Request::new(nobody).with_seeds([7]).with_method(method.clone()).with_embeddings(embeddings);
        assert!(same(&pipeline, &plain, &embedded));
        // The three steps of a picture, one by one.
        let x0 = pipeline.denoise_from(&plain, z, &prompt, &mut ()).unwrap();
        let by_hand = pipeline.decode(x0).unwrap();
        assert_eq!(by_hand[0].as_raw(), pipeline.generate(&plain).unwrap().pictures[0].as_raw());
    }
    let wrong = teacher("x").with_latents(pipeline.noise(&[7, 8], 32, 32));
    assert!(matches!(pipeline.generate(&wrong), Err(Error::Setting { name: "latents", .. })));
    let text = pipeline.encode_prompt(&["x"]).unwrap();
    for z in [
        pipeline.noise(&[7, 8], 32, 32),
        pipeline.noise(&[7], 32, 32).narrow(1, 0, 3),
        pipeline.noise(&[7], 32, 36),
    ] {
        let refused = pipeline.denoise_from(&teacher("x"), z, &text, &mut ());
        assert!(matches!(refused, Err(Error::Setting { .. })), "{refused:?}");
    }
    // What is said twice is refused, by both names.
    let features = |tokens: usize| {
        let prompt = pipeline.encode_prompt(&["x"]).unwrap().narrow(1, 0, tokens);
        Embeddings { prompt, negative: None }
    };
    let nobody: [&str; 0] = [];
    let given = Request::new(nobody).with_embeddings(features(77));
    let picture = RgbImage::new(32, 32);
    let started = teacher("x").with_method(four_steps().with_start(picture, 0.5));
    for (request, words) in [
        (started.clone().with_latents(pipeline.noise(&[7], 32, 32)), ["latents", "picture"]),
        (teacher("x").with_embeddings(features(77)), ["embeddings", "prompts"]),
        (given.clone().with_clip_skip(1), ["embeddings", "clip skip"]),
        // The negative prompt is encoded in 77 tokens; guidance needs as many on both sides.
        (given.with_embeddings(features(20)).with_method(four_steps()), ["20 tokens", "77"]),
    ] {
        let message = pipeline.generate(&request).unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
    let text = pipeline.encode_prompt(&["x"]).unwrap();
    assert!(pipeline.denoise_from(&started, pipeline.noise(&[7], 32, 32), &text, &mut ()).is_err());
    let nan = pipeline.noise(&[7], 32, 32) * f32::NAN;
    let error = pipeline.generate(&teacher("x").with_latents(nan)).unwrap_err();
    assert!(matches!(error, Error::NotFiniteInput { what: "given latents" }), "{error}");
}

#[test]
fn a_picture_to_start_from_is_kept_the_more_the_less_is_drawn() {
    let (model, pipeline) = pipeline();
    let picture = RgbImage::from_fn(32, 32, |x, y| image::Rgb([(8 * x) as u8, (8 * y) as u8, 90]));
    let request = |strength| {
        let settings = TeacherSettings::new(20).with_guidance(1.0).with_start(picture.clone(), strength);
        Request::new(["x"]).with_method(settings)
    };
    let draw = |strength| pipeline.generate(&request(strength)).unwrap().pictures[0].clone();
    // What is kept is measured against the autoencoder's own version of the picture, whose latent is
    // drawn with the seed's first noise.
    let device = device();
    let (autoencoder, _) = Autoencoder::from_dir(&model.path().join("vae"), &device).unwrap();
    let posterior = autoencoder.encode(from_rgb8(std::slice::from_ref(&picture), &device));
    let kept = autoencoder.decode(posterior.sample(pipeline.noise(&[0], 32, 32)));
    let kept = dmd::infer::to_rgb8(kept).remove(0);
    let apart = |a: &RgbImage| -> u32 {
        a.as_raw().iter().zip(kept.as_raw()).map(|(a, b)| u32::from(a.abs_diff(*b))).sum()
    };
    let (little, much) = (apart(&draw(0.05)), apart(&draw(1.0)));
    assert!(little * 4 < much, "{little} and {much}");
    assert!(pipeline.generate(&request(0.0)).is_err());
    assert!(pipeline.generate(&request(1.5)).is_err());
    let wrong = request(0.5).with_size(64, 64);
    assert!(matches!(pipeline.generate(&wrong), Err(Error::Setting { name: "size", .. })));
}

/// One argument changes the decoder; tiles as large as the picture change nothing.
#[test]
fn decoders_can_be_exchanged() {
    let model = tiny_model();
    let builder = || Pipeline::builder(model.path(), &device());
    let draw = |pipeline: &Pipeline| pipeline.generate(&Request::new(["x"])).unwrap().pictures[0].clone();
    let whole = draw(&builder().build().unwrap());
    assert_eq!(whole.as_raw(), draw(&builder().tiles(16).build().unwrap()).as_raw());
    assert!(matches!(builder().tiles(3).build(), Err(Error::Model(dmd::model::Error::Tile { .. }))));
    // The tiny autoencoder's factor is 8 where this model's own is 4: pictures are twice as large.
    let tiny = builder().tiny_autoencoder(golden("taesd")).build().unwrap();
    assert_eq!(draw(&tiny).dimensions(), (64, 64));
}

/// A bare state dict takes the place of the generator's folder, as DMD's checkpoints are given out.
#[test]
fn a_bare_state_dict_is_a_generator() {
    let (model, pipeline) = pipeline();
    fs::remove_dir_all(model.path().join("unet_one_step")).unwrap();
    let file = golden("unet_sd1/diffusion_pytorch_model.safetensors");
    let bare = Pipeline::builder(model.path(), &device()).generator(file).one_step_only().build().unwrap();
    let draw = |pipeline: &Pipeline| pipeline.generate(&Request::new(["x"])).unwrap().pictures[0].clone();
    assert_eq!(draw(&bare).as_raw(), draw(&pipeline).as_raw());
    let bin = Pipeline::builder(model.path(), &device()).generator(golden("unet_sd1/state_dict.bin")).build();
    match bin {
        Ok(pipeline) if cfg!(feature = "pytorch") => {
            assert_eq!(draw(&pipeline).as_raw(), draw(&bare).as_raw());
        }
        Ok(_) => panic!("read without the feature `pytorch`"),
        Err(error) => assert!(error.to_string().contains("feature `pytorch`"), "{error}"),
    }
}

#[test]
fn requests_without_sense_are_refused() {
    let (_model, pipeline) = pipeline();
    let refused = |request: Request| pipeline.generate(&request).unwrap_err();
    assert!(matches!(refused(Request::new([""])), Error::EmptyPrompt));
    assert!(matches!(refused(Request::new(["  \t"])), Error::EmptyPrompt));
    assert!(matches!(refused(Request::new(Vec::<String>::new())), Error::EmptyPrompt));
    assert!(matches!(refused(Request::new(["x"]).with_seeds([1, 2])), Error::Seeds { .. }));
    for size in [(0, 32), (33, 32), (32, 8192)] {
        assert!(matches!(refused(Request::new(["x"]).with_size(size.0, size.1)), Error::Size { .. }));
    }
    let guided = |scale| Request::new(["x"]).with_method(Method::teacher(2, scale));
    assert!(matches!(refused(guided(f64::NAN)), Error::Guidance { .. }));
    assert!(matches!(refused(guided(0.5)), Error::Guidance { .. }));
    let message = refused(Request::new(["word ".repeat(80)])).to_string();
    assert!(message.contains("77"), "{message}");
    let steps = |steps| Request::new(["x"]).with_method(Method::teacher(steps, 1.0));
    assert!(refused(steps(0)).to_string().contains("0 sampling steps"));
    assert!(refused(steps(1001)).to_string().contains("1001"));
}

#[test]
fn parts_can_be_missing() {
    let model = tiny_model();
    fs::remove_dir_all(model.path().join("unet_one_step")).unwrap();
    let pipeline = Pipeline::from_dir(model.path(), &device()).unwrap();
    let error = pipeline.generate(&Request::new(["x"])).unwrap_err();
    assert!(error.to_string().contains("dmd distill"), "{error}");
    pipeline.generate(&Request::new(["x"]).with_method(four_steps())).unwrap();

    let model = tiny_model();
    let pipeline = Pipeline::builder(model.path(), &device()).one_step_only().build().unwrap();
    pipeline.generate(&Request::new(["x"])).unwrap();
    assert!(matches!(
        pipeline.generate(&Request::new(["x"]).with_method(four_steps())),
        Err(Error::Model(dmd::model::Error::Missing { .. }))
    ));

    fs::remove_dir_all(model.path().join("vae")).unwrap();
    let error = Pipeline::from_dir(model.path(), &device()).unwrap_err();
    assert!(error.to_string().contains("vae"), "{error}");
}

/// An option that this implementation does not compute is refused by name, not ignored.
#[test]
fn unsupported_options_are_refused() {
    for (file, key, value) in [
        ("unet/config.json", "class_embed_type", "\"timestep\""),
        ("unet/config.json", "down_block_types", "[\"AttnDownBlock2D\", \"DownBlock2D\"]"),
        ("unet/config.json", "norm_num_groups", "5"),
        ("unet/config.json", "attention_head_dim", "3"),
        ("vae/config.json", "act_fn", "\"gelu\""),
        ("text_encoder/config.json", "num_attention_heads", "7"),
        ("scheduler/scheduler_config.json", "prediction_type", "\"flow\""),
    ] {
        let model = tiny_model();
        let path = model.path().join(file);
        let mut config: serde_json::Value = dmd::weights::read_json(&path).unwrap();
        config[key] = serde_json::from_str(value).unwrap();
        fs::write(&path, config.to_string()).unwrap();
        let error = Pipeline::from_dir(model.path(), &device()).unwrap_err();
        let message = format!("{:#}", anyhow::Error::from(error));
        assert!(message.contains(key), "{key}: {message}");
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
    let text = pipeline.encode_prompt(&["x"]).unwrap();
    let x0 = generator.generate(z, &text, &mut || noise.normal([1, 4, 8, 8], &device()));
    assert_eq!(pipeline.decode(x0).unwrap()[0].as_raw(), drawn.pictures[0].as_raw());

    for damaged in [vec![], vec![500, 600], vec![1000]] {
        dmd::weights::write_json(&path, &serde_json::json!({ "timesteps": damaged })).unwrap();
        let message = Pipeline::from_dir(model.path(), &device()).unwrap_err().to_string();
        assert!(message.contains("one_step.json"), "{message}");
    }
}
