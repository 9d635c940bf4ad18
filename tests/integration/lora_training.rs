//! Training of low-rank updates against PEFT: fixtures of `scripts/golden_lora.py`.

use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{DType, FloatDType, Tensor};
use dmd::core::{
    Adversary, Diffusion, Distiller, Draw, FewStep, Guided, Level, Noise, Prediction, Reals, Terms,
};
use dmd::scheduler::SchedulerConfig;
use dmd::train::{AdamW, AdamWConfig, Gradients, LoraSection};
use dmd::unet::{Discriminator, Network, UNET_KEYS, UNet2d, UNetDenoiser};

use crate::support::{Fixture, Weights, critic_head, device, golden};

/// Every layer that may have an update.
const LAYERS: [&str; 14] = [
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "time_emb_proj",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
];

/// A network with updates whose matrices are drawn as the script draws them.
fn updated(network: UNet2d, section: &LoraSection, seed: u64) -> UNet2d {
    let network = section.attach(network, &UNET_KEYS, &mut Noise::from_seed(0)).unwrap();
    let mut weights = Weights::new();
    for (i, (name, shape, _)) in (0_u64..).zip(updates(&network)) {
        let noise = Noise::torch_cpu(seed * 1000 + i).normals(shape.iter().product());
        weights.add(name, &shape, noise.iter().map(|value| (0.05 * value) as f32));
    }
    let file = dmd::weights::read(&weights.write("lora.safetensors")).unwrap();
    let names = dmd::weights::trained(&network, &UNET_KEYS);
    dmd::weights::load_some_for_training(network, &file, &UNET_KEYS, &names).unwrap()
}

/// The matrices of a network's updates, in the order of their names.
fn updates(network: &UNet2d) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("updates.safetensors");
    let names = dmd::weights::trained(network, &UNET_KEYS);
    dmd::weights::save_some(network, &path, &UNET_KEYS, dmd::weights::Precision::Single, &names).unwrap();
    let file = dmd::weights::read(&path).unwrap();
    let entries = file.entries().iter();
    entries.map(|(name, entry)| (name.clone(), entry.shape.clone(), file.floats(name).unwrap())).collect()
}

/// Gradients of a network's trained parameters, by name, as the script stores them: every 7th value.
fn named(gradients: &Gradients, names: &[String]) -> Vec<(String, Vec<f32>)> {
    let value =
        |gradient: &mut Tensor<1>| gradient.clone().into_data().iter::<f32>().step_by(7).collect::<Vec<_>>();
    names.iter().cloned().zip(gradients.clone().iter_mut().map(value)).collect()
}

/// The largest difference relative to the largest value of each tensor.
fn compare(what: &str, found: &[f32], expected: &[f32], bar: f64) -> f64 {
    assert_eq!(found.len(), expected.len(), "{what}");
    let square =
        |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let distance = square(&mut found.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
    let relative = distance / square(&mut expected.iter().map(|b| f64::from(*b))).max(1e-12);
    assert!(relative <= bar, "{what}: {relative:e} from PyTorch's");
    relative
}

/// Runs the fixture's iterations and compares losses, norms, the first gradients and the matrices at the end.
fn iterations(unet: &Path, io: &Fixture, section: &LoraSection, count: usize, head: Discriminator) {
    let rate = f64::from(io.values("rate").1[0]);
    let number = |name: &str| f64::from(io.values(name).1[0]);
    let schedule = SchedulerConfig::stable_diffusion().schedule();
    let (alpha, sigma) = schedule.alpha_sigma(999);
    let (teacher, _) = UNet2d::from_dir(unet, &device()).unwrap();
    let network =
        |seed| UNetDenoiser::new(updated(teacher.clone().train(), section, seed), Prediction::Epsilon);
    let mut d = Distiller::new(
        FewStep::new(network(51), vec![Level { t: 999.0, alpha, sigma }]),
        Guided::new(UNetDenoiser::new(teacher.clone(), Prediction::Epsilon), io.tensor("empty"), 2.0),
        network(52).with_critic(head),
        schedule,
    );
    let mut optimizers = [(); 2].map(|()| AdamW::new(AdamWConfig::default()));
    let text: Tensor<3> = io.tensor("text");
    let worst = std::cell::Cell::new(0.0_f64);
    let gradients = |which: &str, network: &UNet2d, found: &Gradients| {
        for (name, found) in named(found, &dmd::weights::trained(network, &UNET_KEYS)) {
            let expected = io.values(&format!("gradient.{which}.{name}")).1;
            worst.set(worst.get().max(compare(&format!("{which} {name}"), &found, &expected, 1e-4)));
        }
    };
    for i in 0..count {
        let start = Instant::now();
        let at = |name: &str| format!("{name}{i}");
        let close = |what: &str, found: &Tensor<1>| {
            let (found, expected) =
                (f64::from(found.clone().without_autodiff().into_scalar::<f32>()), number(&at(what)));
            let relative = (found - expected).abs() / expected.abs();
            assert!(relative <= 1e-4, "{what} of iteration {i}: {found}, expected {expected}");
            worst.set(worst.get().max(relative));
        };
        let diffusion = |eps: &str, t: &str| Diffusion { eps: io.tensor(&at(eps)), t: io.tensor(&at(t)) };
        let draw =
            Draw { z: io.tensor(&at("z")), diffusion: diffusion("eps", "t"), later: None, second: None };
        let adversary = Adversary { diffusion: diffusion("critic_eps", "critic_t"), weight: 0.3 };
        let terms = Terms { adversary: Some(adversary), ..Terms::default() };
        let loss = d.generator_loss(&draw, &terms, &text).unwrap();
        close("matching", loss.matching.as_ref().unwrap());
        close("adversarial", loss.adversarial.as_ref().unwrap());
        let grads = Gradients::of(loss.total, &d.generator.denoiser.network);
        if i == 0 {
            gradients("generator", &d.generator.denoiser.network, &grads);
        }
        let (network, norm) = optimizers[0].step(rate, d.generator.denoiser.network.clone(), grads);
        close("generator_norm", &norm);
        d.generator.denoiser.network = network;

        let fake = d.fake_loss(loss.x.clone(), &diffusion("fake_eps", "fake_t"), &text);
        close("fake", &fake);
        let reals = Reals {
            x0: io.tensor(&at("real")),
            condition: io.tensor("real_text"),
            diffusion: diffusion("real_eps", "real_t"),
        };
        let critic = d.critic_loss(loss.x, &diffusion("turn_eps", "turn_t"), &text, &reals).unwrap();
        close("critic", &critic.loss);
        let grads = Gradients::of(fake + critic.loss * 0.1, &d.fake);
        if i == 0 {
            // The critic's come after the network's.
            gradients("fake", &d.fake.network, &grads);
        }
        let (fake, norm) = optimizers[1].step(rate, d.fake.clone(), grads);
        close("fake_norm", &norm);
        d.fake = fake;
        println!("iteration {i}: {:.1} s", start.elapsed().as_secs_f64());
    }
    let networks = [("generator", &d.generator.denoiser.network), ("fake", &d.fake.network)];
    for (which, network) in networks {
        for (name, _, found) in updates(network) {
            let found: Vec<f32> = found.into_iter().step_by(7).collect();
            let expected = io.values(&format!("after.{which}.{name}")).1;
            worst.set(worst.get().max(compare(&format!("{which} {name}"), &found, &expected, 1e-4)));
        }
    }
    println!("worst relative difference: {:e}", worst.get());
}

fn section(rank: usize, alpha: f64) -> LoraSection {
    LoraSection { rank, alpha: Some(alpha), layers: LAYERS.map(str::to_owned).to_vec() }
}

/// Three iterations of DMD2 on low-rank updates of every kind of layer.
#[test]
fn iterations_of_peft() {
    let io = Fixture::open("lora_training");
    let head = critic_head(&io, Discriminator::new(32, 4, 4, &device())).train();
    iterations(&golden("unet_sd1"), &io, &section(4, 8.0), 3, head);
}

/// The same at the size of Stable Diffusion 1.5, on files that `scripts/golden_lora.py` makes.
#[test]
#[ignore = "needs DMD_LORA_UNET and DMD_LORA_REFERENCE, and minutes"]
fn lora_at_full_size() {
    let variable = |name: &str| std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set"));
    let io = Fixture::at(Path::new(&variable("DMD_LORA_REFERENCE")));
    let head = critic_head(&io, Discriminator::new(1280, 8, 32, &device())).train();
    let rank = std::env::var("DMD_LORA_RANK").map_or(16, |rank| rank.parse().unwrap());
    iterations(Path::new(&variable("DMD_LORA_UNET")), &io, &section(rank, rank as f64), 3, head);
}

/// Gradients of a network's trained parameters, of its output and of its first half.
fn gradients(network: &UNet2d, io: &Fixture) -> Vec<Vec<f32>> {
    let output = network.forward(io.tensor("z0"), io.tensor("t0"), &io.tensor("text"));
    let half = network.encode(io.tensor("eps0"), io.tensor("t0"), &io.tensor("text"));
    let mut gradients = Gradients::of(output.square().mean() + half.square().mean(), network);
    let values = |tensor: &mut Tensor<1>| {
        assert_eq!(tensor.dtype(), DType::F32, "a gradient has its parameter's type");
        tensor.clone().into_data().iter::<f32>().collect::<Vec<_>>()
    };
    gradients.iter_mut().map(values).collect()
}

/// Computed in bf16, gradients of f32 parameters are those of f32 but for the rounding of values in between: bf16 has 8
/// bits, a step of 2^-8 = 0.4 %, and a gradient is the product of some twenty layers.
#[test]
fn bf16_gradients_are_near_those_of_f32() {
    let io = Fixture::open("lora_training");
    let (network, _) = UNet2d::from_dir(&golden("unet_sd1"), &device()).unwrap();
    let whole = network.clone().train();
    let low_rank = updated(network.train(), &section(4, 8.0), 51);
    let in_bf16 = dmd::weights::cast_frozen(low_rank.clone(), FloatDType::BF16);
    let pairs = [
        ("all weights", whole.clone(), whole.computing_in(FloatDType::BF16)),
        ("updates", low_rank, in_bf16),
    ];
    for (what, single, half) in pairs {
        let (single, half) = (gradients(&single, &io), gradients(&half, &io));
        assert_eq!(single.len(), half.len());
        assert!(single != half, "{what}: computed in bf16");
        let (single, half) = (single.concat(), half.concat());
        let relative = compare(what, &half, &single, 0.02);
        println!("{what}: {relative:e} from f32");
    }
}

/// Blocks that are computed again give the gradients of the plain tape bit by bit: of every weight, and of every update;
/// all but those of the time embedding's two layers, to which the blocks' parts are added in another order.
#[test]
fn recomputed_blocks_have_the_same_gradients() {
    let device = device();
    let io = Fixture::open("lora_training");
    let (network, _) = UNet2d::from_dir(&golden("unet_sd1"), &device).unwrap();
    let whole = network.clone().train();
    let low_rank = updated(network.train(), &section(4, 8.0), 51);
    let networks = [
        ("all weights in bf16", whole.clone().computing_in(FloatDType::BF16)),
        ("updates of a network in bf16", dmd::weights::cast_frozen(low_rank.clone(), FloatDType::BF16)),
        ("all weights", whole),
        ("updates", low_rank),
    ];
    for (what, network) in networks {
        let gradients = |network: &UNet2d| gradients(network, &io);
        let kept = gradients(&network);
        let again = gradients(&network.clone().recomputing());
        let names = dmd::weights::trained(&network, &UNET_KEYS);
        assert_eq!((kept.len(), again.len()), (names.len(), names.len()), "{what}");
        for ((name, kept), again) in names.iter().zip(&kept).zip(&again) {
            if name.starts_with("time_embedding") {
                compare(name, again, kept, 1e-6);
            } else {
                assert!(kept == again, "{what}: the gradient of {name} differs");
            }
        }
    }
}
