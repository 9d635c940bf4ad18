//! Training against PyTorch and diffusers: fixtures of `scripts/golden_training.py`.

use burn::module::Module;
use burn::tensor::Tensor;
use dmd::core::{
    Adversary, Denoiser, Diffusion, Distiller, Draw, FewStep, Guided, Level, Noise, NoiseSchedule,
    Prediction, Reals, SquaredError, Targets, Terms,
};
use dmd::scheduler::{KarrasSchedule, SchedulerConfig};
use dmd::train::{AdamW, AdamWConfig, Gradients};
use dmd::unet::{
    ClassDenoiser, ClassUNet2d, Discriminator, Network, UNET_KEYS, UNet2d, UNetConfig, UNetDenoiser,
};
use dmd::weights::KeyMap;

use crate::support::{Fixture, Weights, assert_close, critic_head, device, golden};

/// diffusers' UNet2DModel: with classes, as ADM has it, and without classes; and under EDM's preconditioning, at
/// sigma 80 too.
#[test]
fn class_conditional_unets() {
    for name in ["class_unet", "class_unet_adm", "class_unet_none"] {
        let (network, config) = ClassUNet2d::from_dir(&golden(name), &device()).unwrap();
        let io = Fixture::open(&format!("{name}/io"));
        let classes = (config.classes() > 0).then(|| io.tensor("classes"));
        let output = network.forward(io.tensor("x"), io.tensor("t"), &classes);
        assert_close(name, output, io.tensor("output"));
        let sigma: Tensor<1> = io.tensor("sigma");
        let x_t = io.tensor::<4>("x") * sigma.clone().reshape([2, 1, 1, 1]);
        let denoiser = ClassDenoiser::new(network, Prediction::Karras { sigma_data: 0.5 });
        let x0 = denoiser.denoise(x_t, &KarrasSchedule::default().level(sigma), &classes);
        assert_close(&format!("{name} x0"), x0, io.tensor("x0"));
    }
}

/// The tiny UNet of the golden files with noise on every parameter, in PyTorch's order of parameters.
fn perturbed(seed: u64) -> UNetDenoiser {
    let names = std::fs::read_to_string(golden("training_step/parameters.json")).unwrap();
    let names: Vec<String> = serde_json::from_str(&names).unwrap();
    let file = dmd::weights::read(&golden("unet_sd1/diffusion_pytorch_model.safetensors")).unwrap();
    let mut weights = Weights::new();
    for (i, name) in (0_u64..).zip(&names) {
        let values = file.floats(name).unwrap();
        let noise = Noise::torch_cpu(seed * 1000 + i).normals(values.len());
        let changed = values.iter().zip(noise).map(|(value, n)| value + 0.02 * n as f32);
        weights.add(name.clone(), &file.entries()[name].shape, changed);
    }
    let config: UNetConfig = dmd::weights::read_config(&golden("unet_sd1")).unwrap();
    let path = weights.write("unet.safetensors");
    let network = config.init(&device()).unwrap();
    let network = dmd::weights::load_for_training(network, &dmd::weights::read(&path).unwrap(), &UNET_KEYS);
    UNetDenoiser::new(network.unwrap(), Prediction::Epsilon)
}

/// One whole iteration of DMD2 with DMD's regression beside it, against the same in PyTorch: every loss, both
/// gradients' norms and the weights after AdamW.
#[test]
fn a_training_step_of_pytorch() {
    let io = Fixture::open("training_step/io");
    let number = |name: &str| f64::from(io.values(name).1[0]);
    let schedule = SchedulerConfig::stable_diffusion().schedule();
    let (alpha, sigma) = schedule.alpha_sigma(999);
    let head = critic_head(&io, Discriminator::new(32, 4, 4, &device()));
    let (teacher, _) = UNet2d::from_dir(&golden("unet_sd1"), &device()).unwrap();
    let teacher = UNetDenoiser::new(teacher, Prediction::Epsilon);
    let mut d = Distiller::new(
        FewStep::new(perturbed(31).train(), vec![Level { t: 999.0, alpha, sigma }]),
        Guided::new(teacher, io.tensor("empty"), 2.0),
        perturbed(32).with_critic(head).train(),
        schedule,
    );
    let text: Tensor<3> = io.tensor("text");
    let close = |what: &str, found: f64| {
        let expected = number(what);
        assert!((found - expected).abs() <= 1e-4 * expected.abs(), "{what}: {found}, expected {expected}");
    };
    let value = |tensor: &Tensor<1>| f64::from(tensor.clone().without_autodiff().into_scalar::<f32>());
    let adam = || AdamW::new(AdamWConfig::default());
    let diffusion = |eps: &str, t: &str| Diffusion { eps: io.tensor(eps), t: io.tensor(t) };

    let draw = Draw { z: io.tensor("z"), diffusion: diffusion("eps", "t"), later: None, second: None };
    let targets = Targets { x0: io.tensor("target"), weight: 0.25, distance: &SquaredError };
    let adversary = Adversary { diffusion: diffusion("critic_eps", "critic_t"), weight: 0.3 };
    let terms = Terms { targets: Some(targets), adversary: Some(adversary), ..Terms::default() };
    let loss = d.generator_loss(&draw, &terms, &text).unwrap();
    close("matching", value(loss.matching.as_ref().unwrap()));
    close("regression", value(loss.regression.as_ref().unwrap()));
    close("adversarial", value(loss.adversarial.as_ref().unwrap()));
    let grads = Gradients::of(loss.total, &d.generator);
    let (generator, norm) = adam().step(1e-3, d.generator.clone(), grads);
    close("generator_norm", value(&norm));

    let fake = d.fake_loss(loss.x.clone(), &diffusion("fake_eps", "fake_t"), &text);
    close("fake", value(&fake));
    let reals = Reals {
        x0: io.tensor("real"),
        condition: io.tensor("real_text"),
        diffusion: diffusion("real_eps", "real_t"),
    };
    let critic = d.critic_loss(loss.x, &diffusion("turn_eps", "turn_t"), &text, &reals).unwrap();
    close("critic", value(&critic.loss));
    let grads = Gradients::of(fake + critic.loss * 0.1, &d.fake);
    let (fake, norm) = adam().step(1e-3, d.fake.clone(), grads);
    close("fake_norm", value(&norm));
    (d.generator, d.fake) = (generator, fake);

    let mut compared = 0;
    let mut check = |prefix: &str, tensors: Vec<(String, Vec<usize>, Vec<f32>)>| {
        for (name, _, found) in tensors {
            let (_, expected) = io.values(&format!("after.{prefix}.{name}"));
            let step = if found.len() <= 64 { 1 } else { 97 };
            for (a, b) in found.iter().step_by(step).zip(&expected) {
                compared += 1;
                // 1e-4 of the value, and of the step of 1e-3 that was taken.
                assert!((a - b).abs() <= 1e-4 * b.abs() + 1e-7, "{prefix}.{name}: {a}, expected {b}");
            }
        }
    };
    check("generator", dmd::weights::tensors(&d.generator.plain().denoiser.network, &UNET_KEYS));
    let fake = d.fake.valid();
    check("fake", dmd::weights::tensors(&fake.network, &UNET_KEYS));
    check("head", dmd::weights::tensors(fake.critic().unwrap(), &KeyMap::default()));
    assert!(compared > 10_000, "{compared} weights were compared");
}
