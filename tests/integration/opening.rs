//! Opening a model: what does not belong together is refused by name before a network runs, and a request of many
//! pictures is drawn a few at a time.

use std::fs;
use std::path::Path;

use crate::support::{device, golden, tiny_model};
use dmd::infer::{CancelToken, Error, Method, Observer, Pipeline, Progress, Request, Stage, TeacherSettings};
use dmd::model::{Error as ModelError, OpenOptions};
use image::RgbImage;
use serde_json::{Value, json};

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut config: Value = dmd::weights::read_json(path).unwrap();
    change(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

fn refusal(model: &Path) -> Error {
    Pipeline::from_dir(model, &device()).unwrap_err()
}

/// An error with its causes, as the program prints it.
fn with_causes(error: &Error) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Each configuration is good by itself. Both numbers are named, and the weights, which would not fit the changed
/// configuration either, were not looked at.
#[test]
fn parts_that_do_not_fit_are_refused_before_weights_are_read() {
    for (part, key, value, numbers, word) in [
        ("unet", "in_channels", json!(9), ["9", "4"], "inpainting"),
        ("unet", "in_channels", json!(8), ["8", "4"], "InstructPix2Pix"),
        ("unet_one_step", "in_channels", json!(5), ["5", "4"], "generator"),
        ("unet", "out_channels", json!(8), ["8", "4"], "writes"),
        ("unet", "cross_attention_dim", json!(30), ["24", "30"], "text encoder"),
        ("vae", "latent_channels", json!(16), ["4", "16"], "latents"),
        ("vae", "out_channels", json!(4), ["4", "3"], "colour"),
        ("text_encoder", "vocab_size", json!(100), ["527", "100"], "tokenizer"),
    ] {
        let model = tiny_model();
        edit(&model.path().join(part).join("config.json"), |config| config[key] = value.clone());
        let error = refusal(model.path());
        assert!(matches!(error, Error::Model(ModelError::Misfit { .. })), "{part} {key}: {error}");
        let message = error.to_string();
        assert!(numbers.iter().all(|number| message.contains(number)), "{part} {key}: {message}");
        assert!(message.contains(word) && message.len() < 1000, "{part} {key}: {message}");
        let listed = dmd::model::misfits(&OpenOptions::new(model.path(), &device())).unwrap();
        assert!(message.contains(&listed.join("; ")), "{listed:?}: {message}");
    }
    let tiny = tempfile::tempdir().unwrap();
    for name in ["config.json", "diffusion_pytorch_model.safetensors"] {
        fs::copy(golden("taesd").join(name), tiny.path().join(name)).unwrap();
    }
    edit(&tiny.path().join("config.json"), |config| config["latent_channels"] = 16.into());
    let model = tiny_model();
    let error = Pipeline::builder(model.path(), &device()).tiny_autoencoder(tiny.path()).build().unwrap_err();
    assert!(matches!(error, Error::Model(ModelError::Misfit { .. })), "{error}");
}

/// A wrong recipe is an error, never another picture.
#[test]
fn a_mistyped_recipe_is_refused() {
    for written in [
        json!({ "timestep": 399.5 }),
        json!({ "timestep": "399" }),
        json!({ "timestep": -1 }),
        json!({ "timestep": 1000 }),
        json!({ "timesteps": [999, "749"] }),
        json!({ "timesteps": [] }),
        json!({ "timesteps": [499, 999] }),
        json!({ "timesteps": [999, 999] }),
        json!({ "timestep": 399, "timesteps": [999, 499] }),
        json!({ "noise_scale": "1" }),
        json!({ "noise_scale": 0.0 }),
        json!({ "noise_scale": -1.0 }),
        json!({ "guidance_scale": 0.5 }),
        json!({ "guidance_scale": "2" }),
        json!({ "time_step": 399 }),
    ] {
        let model = tiny_model();
        let path = model.path().join("unet_one_step/one_step.json");
        fs::write(&path, written.to_string()).unwrap();
        let message = refusal(model.path()).to_string();
        assert!(message.contains("one_step.json"), "{written}: {message}");
    }
}

/// What is not a model folder says what it is.
#[test]
fn other_places_are_named() {
    let model = tiny_model();
    let file = model.path().join("unet/config.json");
    assert!(refusal(&file).to_string().contains("config.json"));
    assert!(refusal(&model.path().join("nothing")).to_string().contains("does not exist"));
    let hub = tempfile::tempdir().unwrap();
    let snapshot = hub.path().join("snapshots/0123abcd");
    fs::create_dir_all(&snapshot).unwrap();
    let message = refusal(hub.path()).to_string();
    assert!(message.contains("0123abcd"), "{message}");
    // A plain Stable Diffusion folder has a network, but not the one that is asked for.
    fs::remove_dir_all(model.path().join("unet_one_step")).unwrap();
    let only = Pipeline::builder(model.path(), &device()).one_step_only().build().unwrap_err().to_string();
    assert!(only.contains("no one-step generator") && only.contains("--steps"), "{only}");
}

/// A model of classes, put together from a golden network.
pub fn class_model(network: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for part in ["unet", "unet_one_step"] {
        fs::create_dir(folder.path().join(part)).unwrap();
        for name in ["config.json", "diffusion_pytorch_model.safetensors"] {
            fs::copy(golden(network).join(name), folder.path().join(part).join(name)).unwrap();
        }
    }
    let scheduler = json!({ "_class_name": "EDMEulerScheduler", "sigma_data": 0.5 });
    fs::create_dir(folder.path().join("scheduler")).unwrap();
    fs::write(folder.path().join("scheduler/scheduler_config.json"), scheduler.to_string()).unwrap();
    folder
}

/// A model of classes takes the same requests as a model of texts, and refuses what it does not have by name.
#[test]
fn classes_are_requested_like_texts() {
    let model = class_model("class_unet");
    let pipeline = Pipeline::from_dir(model.path(), &device()).unwrap();
    let teacher = |settings: TeacherSettings| Request::new(["1"]).with_method(settings);
    assert_eq!(pipeline.generate(&Request::new(["0", "1", ""])).unwrap().pictures.len(), 3);
    pipeline.generate(&teacher(TeacherSettings::new(3).with_guidance(2.0))).unwrap();
    let refused = |request: Request| pipeline.generate(&request).unwrap_err();
    assert!(matches!(refused(Request::new(["cat"])), Error::Model(ModelError::Class { .. })));
    for (request, word) in [
        (teacher(TeacherSettings::new(0)), "0 sampling steps"),
        (teacher(TeacherSettings::new(1001)), "1001"),
        (teacher(TeacherSettings::new(vec![999, 499])), "timesteps"),
        (teacher(TeacherSettings::new(3).with_sampler(dmd::scheduler::Sampler::UniPc)), "unipc"),
        (teacher(TeacherSettings::new(3).with_guidance(f64::NAN)), "guidance"),
        (teacher(TeacherSettings::new(3).with_guidance(0.5)), "guidance"),
        (teacher(TeacherSettings::new(3).with_negative("cat")), "cat"),
        (Request::new(["1"]).with_clip_skip(1), "clip skip"),
        (Request::new(["1"]).with_size(3, 3), "3×3"),
    ] {
        let message = refused(request).to_string();
        assert!(message.to_lowercase().contains(word), "{word}: {message}");
    }
    assert!(pipeline.encode_prompt(&["1"]).is_err());

    // A NaN among the weights is an error, not a black picture.
    let path = model.path().join("unet_one_step/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let broken = Pipeline::from_dir(model.path(), &device()).unwrap();
    assert!(matches!(broken.generate(&Request::new(["1"])), Err(Error::NotFinite { .. })));

    for (file, key, value, word) in [
        ("unet/config.json", "out_channels", json!(6), "6"),
        ("unet/config.json", "num_class_embeds", json!(7), "classes"),
        ("scheduler/scheduler_config.json", "sigma_max", json!(0.0), "sigma_max"),
    ] {
        let model = class_model("class_unet");
        edit(&model.path().join(file), |config| config[key] = value.clone());
        let message = with_causes(&refusal(model.path()));
        assert!(message.contains(word), "{key}: {message}");
    }
    fs::write(model.path().join("classes.json"), "[\"one\"]").unwrap();
    assert!(refusal(model.path()).to_string().contains("classes.json"));
}

/// Keeps the pictures as they come, and may end the request after some.
#[derive(Default)]
struct Album {
    pictures: Vec<(usize, u64, RgbImage)>,
    chunks: Vec<std::ops::Range<usize>>,
    stages: usize,
    stop_after: Option<usize>,
}

impl Observer for Album {
    fn on_stage(&mut self, _stage: Stage) {
        self.stages += 1;
    }

    fn on_step(&mut self, progress: &Progress<'_>) {
        self.chunks.push(progress.pictures.clone());
    }

    fn on_picture(&mut self, place: usize, seed: u64, picture: &RgbImage) {
        self.pictures.push((place, seed, picture.clone()));
    }

    fn cancelled(&self) -> bool {
        self.stop_after.is_some_and(|count| self.pictures.len() >= count)
    }
}

/// Many pictures go through the networks a few at a time; each is handed out when it is drawn, and is the picture of
/// its own prompt and seed.
#[test]
fn many_pictures_are_drawn_a_few_at_a_time() {
    let model = tiny_model();
    let request = Request::new(["red", "blue", "red", "a circle", ""].map(|p| format!("{p} x")))
        .with_seeds([5, 6, 7, 8, 9]);
    let draw = |at_a_time, request: &Request| {
        let pipeline = Pipeline::builder(model.path(), &device()).at_a_time(at_a_time).build().unwrap();
        let mut album = Album::default();
        let drawn = pipeline.generate_with(request, &mut album).unwrap();
        (drawn, album)
    };
    let ancestral = TeacherSettings::new(3).with_sampler(dmd::scheduler::Sampler::EulerAncestral);
    for method in [Method::Distilled, ancestral.into()] {
        let request = request.clone().with_method(method);
        let (whole, _) = draw(5, &request);
        let (pieces, album) = draw(2, &request);
        assert_eq!(album.pictures.iter().map(|(place, ..)| *place).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(album.pictures.iter().map(|(_, seed, _)| *seed).collect::<Vec<_>>(), [5, 6, 7, 8, 9]);
        let mut chunks = album.chunks.clone();
        chunks.dedup();
        assert_eq!(chunks, [0..2, 2..4, 4..5]);
        for (a, b) in whole.pictures.iter().zip(&pieces.pictures) {
            for (a, b) in a.as_raw().iter().zip(b.as_raw()) {
                // Sums in another order may move a value across a rounding border: one level.
                assert!(a.abs_diff(*b) <= 1);
            }
        }
    }
    // An end between two pieces keeps what was drawn.
    let pipeline = Pipeline::builder(model.path(), &device()).at_a_time(2).build().unwrap();
    let mut album = Album { stop_after: Some(2), ..Album::default() };
    assert!(matches!(pipeline.generate_with(&request, &mut album), Err(Error::Cancelled { .. })));
    assert_eq!(album.pictures.len(), 2);
}

/// Cancellation is asked for before the decoder runs, too.
#[test]
fn cancelling_after_the_last_step_spares_the_decoder() {
    struct AtDecoding(CancelToken);
    impl Observer for AtDecoding {
        fn on_stage(&mut self, stage: Stage) {
            if stage == Stage::Decoding {
                self.0.cancel();
            }
        }
        fn on_picture(&mut self, _: usize, _: u64, _: &RgbImage) {
            panic!("a cancelled request draws nothing");
        }
        fn cancelled(&self) -> bool {
            self.0.cancelled()
        }
    }
    let model = tiny_model();
    let pipeline = Pipeline::from_dir(model.path(), &device()).unwrap();
    let result = pipeline.generate_with(&Request::new(["x"]), &mut AtDecoding(CancelToken::new()));
    assert!(matches!(result, Err(Error::Cancelled { .. })));
}

/// One seed per row: noise between the steps is never shared by two rows, and never runs out.
#[test]
fn given_noise_needs_a_seed_per_row() {
    let model = tiny_model();
    let pipeline = Pipeline::from_dir(model.path(), &device()).unwrap();
    let z = pipeline.noise(&[1, 2, 3], 32, 32);
    let text = pipeline.encode_prompt(&["a", "b", "c"]).unwrap();
    for seeds in [vec![1], vec![1, 2], vec![1, 2, 3, 4]] {
        let request = Request::new(["a", "b", "c"]).with_seeds(seeds);
        let error = pipeline.denoise_from(&request, z.clone(), &text, &mut ()).unwrap_err();
        assert!(matches!(error, Error::Seeds { prompts: 3, .. }), "{error}");
    }
}
