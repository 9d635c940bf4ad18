//! Every network and sampler against diffusers and transformers: fixtures made by
//! `scripts/golden.py` on random weights.

use std::ops::ControlFlow;

use crate::support::{Fixture, assert_close, device, device_name, golden};
use burn::module::Module;
use burn::tensor::{FloatDType, Tensor, TensorData};
use dmd::clip::{ClipTextModel, Tokenizer};
use dmd::core::{Denoiser, FakeScore, Guided, Noise, NoiseSchedule, Prediction, per_sample};
use dmd::scheduler::{SchedulerConfig, Steps};
use dmd::unet::{Autoencoder, Discriminator, Network, TinyAutoencoder, UNet2d, UNetDenoiser};

fn unet(name: &str) {
    let (network, _) = UNet2d::from_dir(&golden(name), &device()).unwrap();
    let io = Fixture::open(&format!("{name}/io"));
    let output = network.forward(io.tensor("x"), io.tensor("t"), &io.tensor("text"));
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

/// A frozen network in half precision: single-precision islands keep it within 8 of the type's roundings (2⁻¹¹ and
/// 2⁻⁸), which add up over some thirty layers like the root of their number. That is where an operation's sums are in
/// single precision, as on flex; devices may sum in the type itself (software Vulkan does: 8.6 in f16), which is as many
/// roundings again.
#[test]
fn unet_in_half_precision() {
    let (network, _) = UNet2d::from_dir(&golden("unet_sd1"), &device()).unwrap();
    let io = Fixture::open("unet_sd1/io");
    let schedule = SchedulerConfig::stable_diffusion().schedule();
    let level = schedule.level(io.tensor("t"));
    let single = UNetDenoiser::new(network, Prediction::Sample);
    let expected = single.denoise(io.tensor("x"), &level, &io.tensor("text"));
    let root_mean_square = |x: Tensor<4>| x.square().mean().sqrt().into_scalar::<f32>();
    let roundings = if device_name() == "flex" { 8.0 } else { 16.0 };
    for (dtype, allowed) in [(FloatDType::F16, roundings / 2048.0), (FloatDType::BF16, roundings / 256.0)] {
        if !device().supports_dtype(dtype) {
            continue;
        }
        let found = single.clone().in_precision(dtype).denoise(io.tensor("x"), &level, &io.tensor("text"));
        let off = root_mean_square(found - expected.clone()) / root_mean_square(expected.clone());
        println!("{dtype:?}: {off}");
        assert!(off < allowed, "{dtype:?}: {off} of the output's size");
        assert!(off > 0.0, "{dtype:?} rounds nothing");
    }
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

#[test]
fn tiny_autoencoder_both_ways() {
    let (network, _) = TinyAutoencoder::from_dir(&golden("taesd"), &device()).unwrap();
    let io = Fixture::open("taesd/io");
    assert_close("encoded", network.encode(io.tensor("image")), io.tensor("encoded"));
    assert_close("decoded", network.decode(io.tensor("latent")), io.tensor("decoded"));
}

/// Clip skip: the hidden state before the last layer, normalised as the last one is.
#[test]
fn clip_skip() {
    let (network, _) = ClipTextModel::from_dir(&golden("clip_quick_gelu"), &device()).unwrap();
    let io = Fixture::open("clip_skip");
    assert_close("clip skip", network.forward_skipping(io.ids("ids"), 1), io.tensor("skip_1"));
}

/// Guidance rescale acts on the network's output; here it is taken back from x0.
#[test]
fn guidance_rescale() {
    let (network, _) = UNet2d::from_dir(&golden("unet_sd1"), &device()).unwrap();
    let io = Fixture::open("guidance_rescale");
    let denoiser = UNetDenoiser::new(network, Prediction::Epsilon);
    let guided = Guided::new(denoiser, io.tensor::<3>("empty"), 7.5).with_rescale(0.7, Prediction::Epsilon);
    let t = Tensor::<1>::from_floats([601.0, 601.0], &device());
    let level = SchedulerConfig::stable_diffusion().schedule().level(t);
    let x: Tensor<4> = io.tensor("x");
    let x0 = guided.denoise(x.clone(), &level, &io.tensor("text"));
    let output = (x - x0 * per_sample(level.alpha)) / per_sample(level.sigma);
    assert_close("rescaled", output, io.tensor("output"));
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

/// A guided walk of every sampler with the options of its `scheduler_config.json`: the same timesteps,
/// and the same sample at the end. Each step starts from the last one, so a slip anywhere shows at
/// the end; samplers that draw noise are given the noise that diffusers drew.
fn walk(name: &str) {
    let device = device();
    let (network, _) = UNet2d::from_dir(&golden("unet_sd1"), &device).unwrap();
    let io = Fixture::open(&format!("walks/{name}"));
    let config: SchedulerConfig = dmd::weights::read_json(&golden(&format!("walks/{name}.json"))).unwrap();
    let (_, list) = io.values("list");
    let list: Vec<usize> = list.into_iter().map(|t| t as usize).collect();
    let steps = match list.as_slice() {
        // No walk here has so many steps: it is a timestep.
        [count] if *count < 100 => Steps::Count(*count),
        _ => Steps::Timesteps(list),
    };
    let walk = config.walk(steps).unwrap();
    let (_, expected) = io.values("timesteps");
    let times = walk.timesteps();
    assert_eq!(times.len(), expected.len(), "{name}: calls");
    for (found, expected) in times.iter().zip(expected) {
        assert!((found - f64::from(expected)).abs() < 1e-2, "{name}: timesteps {times:?}");
    }

    let denoiser = UNetDenoiser::new(network, config.prediction());
    let guided = Guided::new(denoiser, io.tensor::<3>("empty"), 3.0);
    let (shape, noise) = io.values("noise");
    let size = shape[1..].iter().product::<usize>();
    let mut noises = noise.chunks(size.max(1));
    let mut draw = || {
        let values = noises.next().expect("diffusers drew as often").to_vec();
        Tensor::from_data(TensorData::new(values, shape[1..].to_vec()), &device)
    };
    let x = walk.start(io.tensor("z"));
    let last = walk.run(&guided, x, &io.tensor("text"), &mut draw, |_, _| ControlFlow::Continue(()));
    assert_close(name, last.unwrap(), io.tensor("end"));
    assert!(noises.next().is_none(), "{name}: diffusers drew more noise");
}

#[test]
fn walks_of_every_sampler() {
    let mut names: Vec<String> = std::fs::read_dir(golden("walks"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names.len(), 48);
    let failed: Vec<_> =
        names.iter().filter(|name| std::panic::catch_unwind(|| walk(name)).is_err()).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

/// `torch.randn` on the CPU, call after call from one generator. PyTorch's vectorised logarithm and
/// sine differ from the exact ones by a few units in the last place; 4 is below the bound.
#[test]
fn torch_noise_is_pytorchs() {
    let io = Fixture::open("torch_noise");
    for seed in [0_u64, 42, 123_456_789, (1 << 32) + 7] {
        let mut noise = Noise::torch_cpu(seed);
        for count in [3, 16, 5, 37, 1024] {
            let (_, expected) = io.values(&format!("{seed}_{count}"));
            for (i, (a, b)) in noise.normals(count).iter().zip(expected).enumerate() {
                assert!(
                    (a - f64::from(b)).abs() < 4e-6,
                    "seed {seed}, {count} values, {i}: {a}, expected {b}"
                );
            }
        }
    }
    let (shape, expected) = io.values("latents_42");
    let found = Noise::torch_cpu(42).normals(shape.iter().product());
    for (a, b) in found.iter().zip(expected) {
        assert!((a - f64::from(b)).abs() < 4e-6, "{a}, expected {b}");
    }
}

/// `torch.randn` on a GPU, from PyTorch's documentation of determinism and from DMD's users.
#[test]
fn torch_cuda_noise_is_pytorchs() {
    for (seed, expected) in
        [(0, [-0.9247, -0.4253, -2.6438, 0.1452]), (42, [0.1940, 2.1614, -0.1721, 0.8491])]
    {
        let found = Noise::torch_cuda(seed).normals(4);
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-4, "seed {seed}: {found:?}");
        }
    }
}

/// DMD2's critic: the paper's parameter count for Stable Diffusion's bottleneck, and the gradient of a
/// logit in the sample, through a network that is not tracked, against finite differences.
#[test]
fn critic_on_the_bottleneck() {
    let device = device();
    assert_eq!(Discriminator::new(1280, 8, 32, &device).num_params(), 52_437_761);

    let (network, _) = UNet2d::from_dir(&golden("unet_sd1"), &device).unwrap();
    device.seed(1);
    let denoiser = UNetDenoiser::new(network, Prediction::Epsilon);
    let io = Fixture::open("unet_sd1/io");
    let (x, text): (Tensor<4>, Tensor<3>) = (io.tensor("x"), io.tensor("text"));
    let level = SchedulerConfig::stable_diffusion().schedule().level(io.tensor("t"));
    assert!(denoiser.logits(x.clone(), &level, &text).is_none(), "no head, no logits");
    let critic = denoiser.with_critic(Discriminator::new(32, 4, 4, &device));
    let logits = |x: Tensor<4>| critic.logits(x, &level, &text).unwrap();
    assert_eq!(logits(x.clone()).dims(), [2, 1]);

    let tracked = x.clone().autodiff().require_grad();
    let grads = logits(tracked.clone()).sum().backward();
    let gradient = tracked.grad(&grads).unwrap();
    let direction: Tensor<4> = Noise::from_seed(3).normal(x.dims(), &device);
    let along: f32 = (gradient * direction.clone()).sum().into_scalar();
    let h = 1e-2;
    let at = |h: f64| logits(x.clone() + direction.clone() * h).sum().into_scalar::<f32>();
    let difference = (at(h) - at(-h)) / (2.0 * h as f32);
    // Central differences in f32: h² of the curvature and 1e-6 / h of rounding.
    assert!((along - difference).abs() < 1e-2 * difference.abs().max(0.1), "{along}, expected {difference}");
}
