//! Every network and sampler against diffusers and transformers: fixtures made by
//! `scripts/golden.py` on random weights.

use std::ops::ControlFlow;

use crate::support::{Fixture, assert_close, device, golden};
use burn::tensor::Tensor;
use dmd::clip::{ClipTextModel, Tokenizer};
use dmd::core::{Guided, Prediction};
use dmd::scheduler::{SchedulerConfig, Spacing, pndm};
use dmd::unet::{Autoencoder, UNet2d, UNetDenoiser};

fn unet(name: &str) {
    let (network, _) = UNet2d::from_dir(&golden(name), &device()).unwrap();
    let io = Fixture::open(&format!("{name}/io"));
    let output = network.forward(io.tensor("x"), io.tensor("t"), io.tensor("text"));
    assert_close(name, output, io.tensor("output"));
}

#[test]
fn unet_of_stable_diffusion_1() {
    unet("unet_sd1");
}

#[test]
fn unet_of_stable_diffusion_2() {
    unet("unet_sd2");
}

#[test]
fn autoencoder_both_ways() {
    let (network, _) = Autoencoder::from_dir(&golden("vae"), &device()).unwrap();
    let io = Fixture::open("vae/io");
    let posterior = network.encode(io.tensor("image"));
    assert_close("mean", posterior.mean, io.tensor("mean"));
    assert_close("log variance", posterior.log_variance, io.tensor("log_variance"));
    assert_close("decoded", network.decode(io.tensor("latent")), io.tensor("decoded"));
}

fn clip(name: &str) {
    let (network, config) = ClipTextModel::from_dir(&golden(name), &device()).unwrap();
    let io = Fixture::open(&format!("{name}/io"));
    assert_close(name, network.forward(io.ids("ids")), io.tensor("hidden"));

    let tokenizer = Tokenizer::from_dir(&golden(name), config.max_position_embeddings).unwrap();
    let prompts: Vec<String> =
        serde_json::from_str(&std::fs::read_to_string(golden(&format!("{name}/prompts.json"))).unwrap())
            .unwrap();
    let (_, expected) = io.values("ids");
    for (prompt, expected) in prompts.iter().zip(expected.chunks(77)) {
        let found = tokenizer.encode(prompt).unwrap();
        let expected: Vec<u32> = expected.iter().map(|id| *id as u32).collect();
        assert_eq!(found, expected, "tokens of {prompt:?}");
    }
}

#[test]
fn text_encoder_with_quick_gelu_and_its_tokens() {
    clip("clip_quick_gelu");
}

#[test]
fn text_encoder_with_gelu_and_its_tokens() {
    clip("clip_gelu");
}

/// A guided walk of ten steps: the same timesteps, and the same sample at the end. The samplers are
/// deterministic and each step starts from the last one, so a slip anywhere shows at the end.
fn walk(name: &str, class: &str, spacing: Spacing) {
    let device = device();
    let (network, _) = UNet2d::from_dir(&golden("unet_sd1"), &device).unwrap();
    let io = Fixture::open(&format!("walk_{name}"));
    let config = SchedulerConfig {
        class_name: class.to_owned(),
        timestep_spacing: spacing,
        ..SchedulerConfig::stable_diffusion()
    };
    let (_, expected_times) = io.values("timesteps");
    let times = match class {
        "PNDMScheduler" => pndm::timesteps(&config, 10).unwrap(),
        _ => config.timesteps(10).unwrap(),
    };
    let times: Vec<f32> = times.into_iter().map(|t| t as f32).collect();
    assert_eq!(times, expected_times, "{name}: timesteps");

    let walk: Tensor<5> = io.tensor("walk");
    let at = |i: usize| walk.clone().narrow(0, i, 1).squeeze::<4>();
    let denoiser = UNetDenoiser::new(network, Prediction::Epsilon);
    let guided = Guided::new(denoiser, io.tensor::<3>("empty"), 3.0);
    let last = config
        .sample(&guided, 10, at(0), &io.tensor("text"), |_, _| ControlFlow::Continue(()))
        .unwrap()
        .expect("nothing broke off");
    assert_close(name, last, at(times.len()));
}

#[test]
fn ddim_walk() {
    walk("ddim", "DDIMScheduler", Spacing::Leading);
}

#[test]
fn ddim_walk_with_trailing_spacing() {
    walk("ddim_trailing", "DDIMScheduler", Spacing::Trailing);
}

#[test]
fn pndm_walk() {
    walk("pndm", "PNDMScheduler", Spacing::Leading);
}
