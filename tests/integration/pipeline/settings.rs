//! What a request may ask for: every setting is heard, and one without sense is refused.

use dmd::infer::{Embeddings, Error, Method, NoiseSource, Pipeline, Request, TeacherSettings};
use dmd::model::pixels::{from_rgb8, to_rgb8};
use dmd::scheduler::Sampler;
use dmd::unet::Autoencoder;
use image::RgbImage;

use super::{four_steps, pipeline};
use crate::support::device;

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
    for z in [pipeline.noise(&[7, 8], 32, 32), pipeline.noise(&[7], 32, 32).narrow(1, 0, 3)] {
        let refused = pipeline.denoise_from(&teacher("x"), z, &text, &mut ());
        assert!(matches!(refused, Err(Error::Setting { .. })), "{refused:?}");
    }
    // What is said twice is refused, by both names.
    let features = |tokens: usize| {
        let prompt = pipeline.encode_prompt(&["x"]).unwrap().words.narrow(1, 0, tokens).into();
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
    let kept = to_rgb8(kept).remove(0);
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
