//! Training and evaluation against PyTorch, diffusers, transformers, `lpips` and `pytorch-fid`: fixtures of
//! `scripts/golden_training.py`.

use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use dmd::clip::ClipModel;
use dmd::core::{
    Adversary, Denoiser, Diffusion, Distance, Distiller, Draw, FewStep, Guided, Level, Noise, NoiseSchedule,
    Prediction, Reals, SquaredError, Targets, Terms,
};
use dmd::eval::frechet::Moments;
use dmd::eval::{Backbone, Inception, Lpips};
use dmd::model::{Family, OpenOptions, StableDiffusion};
use dmd::scheduler::{KarrasSchedule, SchedulerConfig};
use dmd::train::config::PerceptualSection;
use dmd::train::{AdamW, AdamWConfig, Gradients, Perceptual};
use dmd::unet::{
    ClassDenoiser, ClassUNet2d, Discriminator, Network, UNET_KEYS, UNet2d, UNetConfig, UNetDenoiser,
};
use dmd::weights::KeyMap;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::support::{Fixture, assert_close, device, golden, tiny_model};

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

/// Tensors as a temporary safetensors file.
struct Weights {
    folder: tempfile::TempDir,
    tensors: Vec<(String, Vec<usize>, Vec<u8>)>,
}

impl Weights {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), tensors: Vec::new() }
    }

    /// What `torch.randn` draws from a seed, changed by `by`.
    fn draw(&mut self, name: String, seed: u64, shape: &[usize], by: impl Fn(f64) -> f64) {
        let values = Noise::torch_cpu(seed).normals(shape.iter().product());
        let bytes = values.into_iter().flat_map(|v| (by(f64::from(v as f32)) as f32).to_le_bytes()).collect();
        self.tensors.push((name, shape.to_vec(), bytes));
    }

    fn write(&mut self, name: &str) -> PathBuf {
        let views = self.tensors.iter().map(|(name, shape, bytes)| {
            (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        });
        let path = self.folder.path().join(name);
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        self.tensors.clear();
        path
    }
}

fn by(scale: f64) -> impl Fn(f64) -> f64 {
    move |v| v * scale
}

/// Distances and their derivatives, against the package on the same random trunks.
#[test]
fn lpips_of_both_trunks() {
    let io = Fixture::open("lpips");
    type Case<'a> = (&'a str, Backbone, &'a [(usize, [usize; 3])], [usize; 5]);
    let cases: [Case<'_>; 2] = [
        (
            "vgg",
            Backbone::Vgg16,
            &[
                (0, [64, 3, 3]),
                (2, [64, 64, 3]),
                (5, [128, 64, 3]),
                (7, [128, 128, 3]),
                (10, [256, 128, 3]),
                (12, [256, 256, 3]),
                (14, [256, 256, 3]),
                (17, [512, 256, 3]),
                (19, [512, 512, 3]),
                (21, [512, 512, 3]),
                (24, [512, 512, 3]),
                (26, [512, 512, 3]),
                (28, [512, 512, 3]),
            ],
            [64, 128, 256, 512, 512],
        ),
        (
            "alex",
            Backbone::AlexNet,
            &[
                (0, [64, 3, 11]),
                (3, [192, 64, 5]),
                (6, [384, 192, 3]),
                (8, [256, 384, 3]),
                (10, [256, 256, 3]),
            ],
            [64, 192, 384, 256, 256],
        ),
    ];
    for (name, backbone, convs, widths) in cases {
        let mut weights = Weights::new();
        for (i, (place, [output, input, kernel])) in (0_u64..).zip(convs) {
            let scale = (2.0 / (input * kernel * kernel) as f64).sqrt();
            let shape = [*output, *input, *kernel, *kernel];
            weights.draw(format!("features.{place}.weight"), 100 + i, &shape, by(scale));
            weights.draw(format!("features.{place}.bias"), 200 + i, &[*output], by(0.1));
        }
        // A classifier's layers are in the standard files, and not needed.
        weights.draw("classifier.0.weight".to_owned(), 1, &[2, 3], by(1.0));
        let trunk = weights.write("trunk.safetensors");
        for (i, width) in (0_u64..).zip(widths) {
            weights.draw(format!("lin{i}.model.1.weight"), 300 + i, &[1, width, 1, 1], f64::abs);
        }
        let weightings = weights.write("linear.safetensors");
        let lpips = Lpips::from_files(backbone, &trunk, &weightings, &device()).unwrap();
        let found = lpips.distance(io.tensor("first"), io.tensor("second"));
        assert_close(name, found, io.tensor(name));
        let first = io.tensor::<4>("first").autodiff().require_grad();
        let grads = lpips.distance(first.clone(), io.tensor("second")).sum().backward();
        // Derivatives of distances that sum to about 1 over 12 288 values each: near 1e-3.
        let scale = 1e3;
        let gradient = first.grad(&grads).unwrap() * scale;
        assert_close(
            &format!("{name} gradient"),
            gradient,
            io.tensor::<4>(&format!("{name}_gradient")) * scale,
        );
        // As DMD's regression term: the mean distance of decoded pictures, brought to a size first.
        let model = tiny_model();
        let opened = StableDiffusion::open(&OpenOptions::new(model.path(), &device())).unwrap();
        let section = PerceptualSection {
            network: backbone,
            trunk: trunk.clone(),
            weightings: weightings.clone(),
            size: Some(64),
            taesd: None,
        };
        let distance = Perceptual::open(&section, &opened, &device()).unwrap();
        let mut noise = Noise::from_seed(2);
        let mut latent = || noise.normal::<4>([2, 4, 8, 8], &device());
        let (x, target) = (latent(), latent());
        let tracked = x.clone().autodiff().require_grad();
        let loss = distance.of(tracked.clone(), target.clone());
        let gradient = tracked.grad(&loss.clone().backward()).unwrap();
        assert!(gradient.abs().sum().into_scalar::<f32>() > 0.0, "no gradient reaches the latent");
        let options = InterpolateOptions::new(InterpolateMode::Bilinear).with_output_size([64, 64]);
        let shown = |x| interpolate(opened.codec.decode(x), options.clone().with_align_corners(false));
        let expected = lpips.distance(shown(x.clone()), shown(target)).mean();
        assert_close("perceptual", loss.without_autodiff(), expected);
        assert!(distance.of(x.clone(), x).into_scalar::<f32>().abs() < 1e-6);
        // Another network's files are refused by name.
        let other = if backbone == Backbone::Vgg16 { Backbone::AlexNet } else { Backbone::Vgg16 };
        let message = Lpips::from_files(other, &trunk, &weightings, &device()).unwrap_err().to_string();
        assert!(message.contains("features."), "{message}");
    }
}

/// pytorch-fid's features of pictures of another size, from the standard file's names.
#[test]
fn inception_features() {
    let io = Fixture::open("inception");
    let names = std::fs::read_to_string(golden("inception_layers.json")).unwrap();
    let names: Vec<String> = serde_json::from_str(&names).unwrap();
    let mut weights = Weights::new();
    for (i, name) in (0_u64..).zip(&names) {
        let shape = Inception::shape(name).unwrap();
        let output = [shape[0]];
        let scale = (2.0 / shape[1..].iter().product::<usize>() as f64).sqrt();
        weights.draw(format!("{name}.conv.weight"), 1000 + i, &shape, by(scale));
        weights.draw(format!("{name}.bn.weight"), 2000 + i, &output, |v| 1.0 + 0.1 * v);
        weights.draw(format!("{name}.bn.bias"), 3000 + i, &output, by(0.1));
        weights.draw(format!("{name}.bn.running_mean"), 4000 + i, &output, by(0.1));
        weights.draw(format!("{name}.bn.running_var"), 5000 + i, &output, |v| 1.0 + (0.1 * v).abs());
    }
    weights.draw("fc.weight".to_owned(), 1, &[2, 3], by(1.0));
    let path = weights.write("inception.safetensors");
    let inception = Inception::from_file(&path, &device()).unwrap();
    assert_close("inception", inception.features(io.tensor("image")), io.tensor("features"));
    let trunk = golden("unet_sd1/diffusion_pytorch_model.safetensors");
    let message = Inception::from_file(&trunk, &device()).unwrap_err().to_string();
    assert!(message.contains("Conv2d_1a_3x3.conv.weight"), "{message}");
}

/// Against SciPy's matrix square root in f64: 1e-6 relative, where the eigenvalues' and the square root's own
/// roundings are 1e-9.
#[test]
fn frechet_distance_of_scipy() {
    let io = Fixture::open("frechet");
    let rows = |name: &str| {
        let (shape, values) = io.values(name);
        let values: Vec<f64> = values.into_iter().map(f64::from).collect();
        values.chunks_exact(shape[1]).map(<[f64]>::to_vec).collect::<Vec<_>>()
    };
    let found = Moments::of(&rows("first")).distance(&Moments::of(&rows("second")));
    let expected: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(golden("frechet.json")).unwrap()).unwrap();
    let expected = expected["distance"].as_f64().unwrap();
    assert!((found - expected).abs() <= 1e-6 * expected, "{found}, expected {expected}");
}

/// Pictures and texts in CLIP's common space.
#[test]
fn clip_of_pictures_and_texts() {
    let (clip, config) = ClipModel::from_dir(&golden("clip_score"), &device()).unwrap();
    assert_eq!(config.vision_config.image_size, 32);
    let io = Fixture::open("clip_score/io");
    assert_close("pictures", clip.pictures(io.tensor("pixels")), io.tensor("image"));
    assert_close("texts", clip.texts(io.ids("ids")), io.tensor("text"));
    assert!(clip.num_params() > 0);
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
        let bytes = values.iter().zip(noise).flat_map(|(value, n)| (value + 0.02 * n as f32).to_le_bytes());
        weights.tensors.push((name.clone(), file.entries()[name].shape.clone(), bytes.collect()));
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
    let mut head = Weights::new();
    for name in ["conv_1", "norm_1", "conv_2", "norm_2", "conv_out"] {
        for part in ["weight", "bias"] {
            let (shape, values) = io.values(&format!("head.{name}.{part}"));
            let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
            head.tensors.push((format!("{name}.{part}"), shape, bytes));
        }
    }
    let head = dmd::weights::load_for_training(
        Discriminator::new(32, 4, 4, &device()),
        &dmd::weights::read(&head.write("head.safetensors")).unwrap(),
        &KeyMap::default(),
    );
    let (teacher, _) = UNet2d::from_dir(&golden("unet_sd1"), &device()).unwrap();
    let teacher = UNetDenoiser::new(teacher, Prediction::Epsilon);
    let mut d = Distiller::new(
        FewStep::new(perturbed(31).train(), vec![Level { t: 999.0, alpha, sigma }]),
        Guided::new(teacher, io.tensor("empty"), 2.0),
        perturbed(32).with_critic(head.unwrap()).train(),
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

    let draw = Draw { z: io.tensor("z"), diffusion: diffusion("eps", "t"), later: None };
    let targets = Targets { x0: io.tensor("target"), weight: 0.25, distance: &SquaredError };
    let adversary = Adversary { diffusion: diffusion("critic_eps", "critic_t"), weight: 0.3 };
    let terms = Terms { targets: Some(targets), adversary: Some(adversary), ..Terms::default() };
    let loss = d.generator_loss(&draw, &terms, &text);
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
