//! Levels of EDM models against DMD's published values (DMD, appendix; DMD2's ImageNet-64) and formulas written out here.

use std::fs;

use burn::tensor::Tensor;
use dmd::core::{Classes, Denoiser, FakeScore, Level, Noise, TimeDistribution};
use dmd::model::{Conditioner, Family, Model, OpenOptions, PixelClasses, Recipe};
use dmd::unet::Network;
use serde_json::{Value, json};

use crate::opening::class_model;
use crate::support::{assert_close, device};

/// A class-conditional model whose scheduler's file says this.
fn model(scheduler: &Value) -> (tempfile::TempDir, Model<PixelClasses>) {
    let folder = class_model("class_unet");
    fs::write(folder.path().join("scheduler/scheduler_config.json"), scheduler.to_string()).unwrap();
    let model = PixelClasses::open(&OpenOptions::new(folder.path(), &device())).unwrap();
    (folder, model)
}

/// Karras' grid of DMD: σ_i = (σ_min^(1/ρ) + i / 999 · (σ_max^(1/ρ) − σ_min^(1/ρ)))^ρ.
fn sigma(i: usize, (min, max, rho): (f64, f64, f64)) -> f64 {
    let root = |sigma: f64| sigma.powf(1.0 / rho);
    (root(min) + i as f64 / 999.0 * (root(max) - root(min))).powf(rho)
}

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-9 * expected.abs(), "{found}, not {expected}");
}

#[test]
fn levels_are_published_ones() {
    let (_folder, model) = model(&json!({ "_class_name": "EDMEulerScheduler" }));
    let noising = &model.noising;
    assert_eq!(noising.last_timestep(), 999);
    // The generator is called at sigma 80 on noise of deviation 80.
    let recipe = Recipe::published(noising);
    assert_eq!((recipe.timesteps.as_slice(), recipe.noise_scale), (&[999][..], 80.0));
    near(noising.at(999).sigma, 80.0);
    for (i, published) in [(0, 0.002), (20, 0.003232), (500, 2.526507), (980, 72.053899), (998, 79.563825)] {
        let level = noising.at(i);
        near(level.sigma, sigma(i, (0.002, 80.0, 7.0)));
        assert!((level.sigma - published).abs() < 5e-7, "{i}: {}", level.sigma);
        assert_eq!((level.t, level.alpha), (level.sigma, 1.0));
        // Called at another level, a generator's noise is that level's.
        assert_eq!(Recipe::new(vec![i], 1.0, noising).unwrap().noise_scale, level.sigma);
    }
    // The matching term sees the places 20 to 980, both of them, and no others.
    let grid: Vec<f32> = (20..=980).map(|i| sigma(i, (0.002, 80.0, 7.0)) as f32).collect();
    for distribution in [TimeDistribution::Uniform, TimeDistribution::Shifted { shift: 2.0 }] {
        let times = noising.times_by(20..=980, distribution).unwrap();
        let drawn = times.draw(20_000, &mut Noise::from_seed(3), &device()).into_data();
        let mut seen = vec![false; grid.len()];
        for drawn in drawn.iter::<f32>() {
            let place = grid.partition_point(|sigma| sigma * (1.0 - 1e-6) <= drawn) - 1;
            assert!((grid[place] - drawn).abs() <= 1e-6 * drawn, "{drawn} is not in the grid");
            seen[place] = true;
        }
        // A place has at least half of the uniform share: it is missed with the chance e^−10 at most.
        let missed = seen.iter().filter(|seen| !**seen).count();
        assert!(missed <= 2 && seen[0] && seen[960], "{missed} places were not drawn");
    }
}

/// Other constants of the file are followed: grid, noise and the fake score's weight 1/σ² + 1/σ_data².
#[test]
fn constants_of_the_file() {
    let scheduler = json!({ "_class_name": "EDMEulerScheduler", "sigma_min": 0.01, "sigma_max": 50.0, "rho": 5.0,
        "sigma_data": 1.5 });
    for (scheduler, constants, data) in [
        (json!({ "_class_name": "EDMEulerScheduler" }), (0.002, 80.0, 7.0), 0.5_f64),
        (scheduler, (0.01, 50.0, 5.0), 1.5),
    ] {
        let (_folder, model) = model(&scheduler);
        assert_eq!(Recipe::published(&model.noising).noise_scale, constants.1);
        for i in [0, 20, 400, 980, 999] {
            let expected = sigma(i, constants);
            near(model.noising.at(i).sigma, expected);
            let level = model.noising.at(i).like(&Tensor::<1>::zeros([1], &device()));
            let weight = f64::from(model.teacher().unwrap().loss_weight(&level).into_scalar::<f32>());
            let expected = expected.powi(-2) + data.powi(-2);
            assert!((weight - expected).abs() < 1e-5 * expected, "{i}: {weight}, not {expected}");
        }
    }
}

/// The denoiser is `c_skip · x + c_out · F(c_in · x, c_noise)` with EDM's factors (Karras et al. 2022, table 1), for a
/// network that is told ln σ / 4 and for one that is told 250 ln σ; so is the generator's one call.
#[test]
fn networks_are_told_their_sigma() {
    let draft = json!({ "_class_name": "KarrasEDMScheduler", "prediction_type": "sample",
        "precondition_type": "cm_edm" });
    for (scheduler, factor) in [(json!({ "_class_name": "EDMEulerScheduler" }), 0.25), (draft, 250.0)] {
        let (_folder, model) = model(&scheduler);
        let teacher = model.teacher().unwrap();
        let classes: Classes = model.conditioner.condition(&["1"]).unwrap();
        let z = Noise::from_seed(4).normal([1, 3, 8, 8], &device());
        for i in [40, 700, 999] {
            let sigma = model.noising.at(i).sigma;
            let x = z.clone() * sigma;
            let scale = (sigma * sigma + 0.25).sqrt();
            let told = Tensor::<1>::full([1], factor * sigma.ln(), &device());
            let output = teacher.network.forward(x.clone() / scale, told, &classes);
            let expected = x.clone() * (0.25 / (scale * scale)) + output * (sigma * 0.5 / scale);
            let found = teacher.denoise(x, &Level::of_sigma(sigma).like(&z), &classes);
            assert_close(&format!("{factor} at sigma {sigma}"), found, expected.clone());
            if i == 999 {
                let generator = &model.generator.as_ref().unwrap().network;
                assert_close("the generator's call", generator.first(z.clone(), &classes), expected);
            }
        }
    }
}
