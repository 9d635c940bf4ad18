//! The pipeline as a library user meets it, on a tiny model of random weights.

use std::fs;
use std::ops::ControlFlow;

use crate::support::{device, tiny_model};
use burn::tensor::{Tensor, Tolerance};
use dmd::core::{Denoiser, NoiseSchedule, Prediction};
use dmd::infer::{Error, Method, Pipeline, Request};
use dmd::scheduler::SchedulerConfig;
use dmd::unet::{Autoencoder, UNet2d, UNetDenoiser};

const TEACHER: Method = Method::Teacher { steps: 4, guidance_scale: 3.0 };

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
    let eps = unet.forward(z.clone(), level.t.clone(), text);
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
    for method in [Method::OneStep, TEACHER] {
        let request =
            Request::new(["red", "a blue square", "circle"]).with_seeds([3, 5, 3]).with_method(method);
        let batch = pipeline.generate(&request).unwrap();
        for i in 0..3 {
            let single =
                Request::new([request.prompts[i].clone()]).with_seeds([request.seeds[i]]).with_method(method);
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
    let wide = Request { size: Some((16, 40)), ..Request::new(["x"]) };
    assert_eq!(pipeline.generate(&wide).unwrap().pictures[0].dimensions(), (40, 16));
    let unnamed = pipeline.generate(&Request::new(["x", "y"])).unwrap();
    assert_eq!(unnamed.seeds, [0, 1]);
}

#[test]
fn an_observer_sees_every_step_and_may_break_off() {
    let (_model, pipeline) = pipeline();
    let mut seen = Vec::new();
    let request = Request::new(["x"]).with_method(TEACHER);
    pipeline
        .generate_with(&request, |step, x0| {
            assert_eq!(x0.dims(), [1, 4, 8, 8]);
            seen.push(step);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, [1, 2, 3, 4]);
    let cancelled = pipeline.generate_with(&request, |step, _| match step {
        2 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(cancelled, Err(Error::Cancelled { steps: 2 })));
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
        assert!(matches!(refused(Request { size: Some(size), ..Request::new(["x"]) }), Error::Size { .. }));
    }
    let guided = |scale| Request::new(["x"]).with_method(Method::Teacher { steps: 2, guidance_scale: scale });
    assert!(matches!(refused(guided(f64::NAN)), Error::Guidance { .. }));
    assert!(matches!(refused(guided(0.5)), Error::Guidance { .. }));
    let message = refused(Request::new(["word ".repeat(80)])).to_string();
    assert!(message.contains("77"), "{message}");
    let steps = |steps| Request::new(["x"]).with_method(Method::Teacher { steps, guidance_scale: 1.0 });
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
    pipeline.generate(&Request::new(["x"]).with_method(TEACHER)).unwrap();

    let model = tiny_model();
    let pipeline = Pipeline::builder(model.path(), &device()).one_step_only().build().unwrap();
    pipeline.generate(&Request::new(["x"])).unwrap();
    assert!(matches!(
        pipeline.generate(&Request::new(["x"]).with_method(TEACHER)),
        Err(Error::Missing { .. })
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
        let message = Pipeline::from_dir(model.path(), &device()).unwrap_err().to_string();
        assert!(message.contains(key), "{key}: {message}");
    }
}
