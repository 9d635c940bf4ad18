//! Measures of pictures against `lpips`, `pytorch-fid`, SciPy and transformers: fixtures of
//! `scripts/golden_training.py`.

use burn::module::Module;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use dmd::clip::ClipModel;
use dmd::core::{Distance, Noise};
use dmd::eval::frechet::Moments;
use dmd::eval::{Backbone, Inception, Lpips};
use dmd::model::{Family, OpenOptions, StableDiffusion};
use dmd::train::Perceptual;
use dmd::train::config::PerceptualSection;

use crate::support::{Fixture, Weights, assert_close, device, golden, tiny_model};

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
