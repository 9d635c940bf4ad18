//! Walks of every sampler: the timesteps, and finite samples or an error.

use std::ops::ControlFlow;

use burn::tensor::{Device, Tensor};
use dmd_core::{Denoiser, GaussianMixture, NoiseLevel};
use dmd_scheduler::{Error, Sampler, SchedulerConfig};
use proptest::prelude::*;
use serde_json::json;

use crate::{changed, parse, written};

/// `lambda_min_clipped` leaves out the noisiest timesteps before the grid is laid. The timesteps are those of diffusers
/// 0.42.1's DPMSolverMultistepScheduler.
#[test]
fn clipped_lambdas() {
    for (spacing, steps, expected) in CLIPPED {
        let mut all = written(Sampler::DpmPlusPlus);
        all["beta_schedule"] = json!("squaredcos_cap_v2");
        all["lambda_min_clipped"] = json!(-5.1);
        all["timestep_spacing"] = json!(spacing);
        let times = parse(all).unwrap().walk(*steps).unwrap().timesteps();
        assert_eq!(times, *expected, "{spacing}, {steps} steps");
    }
}

const CLIPPED: &[(&str, usize, &[f64])] = &[
    ("linspace", 6, &[995.0, 829.0, 663.0, 498.0, 332.0, 166.0]),
    ("leading", 6, &[853.0, 711.0, 569.0, 427.0, 285.0, 143.0]),
    ("trailing", 6, &[995.0, 828.0, 662.0, 495.0, 328.0, 162.0]),
    (
        "trailing",
        50,
        &[
            995.0, 975.0, 955.0, 935.0, 915.0, 895.0, 875.0, 855.0, 835.0, 815.0, 795.0, 775.0, 755.0, 735.0,
            715.0, 695.0, 675.0, 655.0, 635.0, 615.0, 595.0, 575.0, 555.0, 535.0, 515.0, 495.0, 475.0, 455.0,
            435.0, 415.0, 395.0, 375.0, 355.0, 335.0, 315.0, 295.0, 275.0, 255.0, 235.0, 215.0, 195.0, 175.0,
            155.0, 135.0, 115.0, 95.0, 75.0, 55.0, 35.0, 15.0,
        ],
    ),
    ("linspace", 1, &[995.0]),
];

/// Predicts zeros.
struct Zeros;

impl Denoiser for Zeros {
    type Condition = ();

    fn denoise(&self, x_t: Tensor<4>, _: &NoiseLevel, _: &()) -> Tensor<4> {
        x_t.zeros_like()
    }
}

/// TCD goes down to `(1 − eta)` of the next timestep, rounded down in single precision. What is left of a sample of
/// ones is diffusers 0.42.1's, in double precision: rounded otherwise, the place is off by one and this by 0.3 %.
#[test]
fn tcd_rounds_the_place_between_two_timesteps() {
    for (timesteps, eta, expected) in [
        (vec![999, 700], 0.3, 0.013718117415607751),
        (vec![999, 330], 0.3, 0.02049664813753837),
        (vec![999, 90], 0.3, 0.02346956850082779),
        (vec![999, 600], 0.16, 0.020907996566225405),
        (vec![999, 500], 0.07, 0.026022007717888315),
        (vec![999, 700], 1.0, 0.0002556240290723275),
        (vec![999, 700], 0.0, 0.029222929853117943),
    ] {
        let config = changed(Sampler::Tcd, "eta", json!(eta)).unwrap();
        let walk = config.walk(timesteps.clone()).unwrap();
        let ones = Tensor::<4>::ones([1, 1, 1, 1], &Device::flex());
        let mut draws = 0;
        let mut draw = || {
            draws += 1;
            ones.zeros_like()
        };
        let x = walk.run(&Zeros, walk.start(ones.clone()), &(), &mut draw, |_, _| ControlFlow::Continue(()));
        let found = f64::from(x.unwrap().into_scalar::<f32>());
        assert!((found / expected - 1.0).abs() < 1e-5, "{timesteps:?}, {eta}: {found}, expected {expected}");
        // None for the last step, nor where none is wanted: the next picture of a seed would be another one.
        assert_eq!(draws, usize::from(eta > 0.0), "{timesteps:?}, {eta}");
    }
}

/// A whole walk on the exact mixture: finite samples, or an error that names the steps.
fn finite(config: &SchedulerConfig, steps: usize) {
    let walk = match config.walk(steps) {
        Ok(walk) => walk,
        Err(Error::Steps { steps: found, .. } | Error::Repeated { steps: found, .. }) => {
            assert_eq!(found, steps);
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert!(walk.timesteps().iter().all(|t| t.is_finite()));
    let mixture = GaussianMixture::new(&[(0.5, &[-1.0, 0.3], 0.2), (0.5, &[0.7, 0.1], 0.4)]);
    let device = Device::flex();
    let z = Tensor::<4>::from_floats([[[[0.4, -1.1]]], [[[2.0, 0.3]]]], &device).reshape([2, 2, 1, 1]);
    let eps = z.clone().flip([0]);
    let x = walk.run(&mixture, walk.start(z), &(), &mut || eps.clone(), |_, _| ControlFlow::Continue(()));
    let values: Vec<f32> = x.unwrap().into_data().iter::<f32>().collect();
    assert!(values.iter().all(|x| x.is_finite()), "{} at {steps}: {values:?}", config.class_name());
}

/// The ends of what can be asked: one step, two, all but one, all. Multi-step solvers once divided 0 by 0 there.
#[test]
fn walks_at_the_ends_are_finite_or_refused() {
    for sampler in Sampler::ALL {
        for spacing in ["leading", "trailing", "linspace"] {
            let config = changed(sampler, "timestep_spacing", json!(spacing)).unwrap();
            for steps in [1, 2, 999, 1000] {
                finite(&config, steps);
            }
            let two = config.with_option("num_train_timesteps", 2).unwrap();
            for steps in [1, 2] {
                finite(&two, steps);
            }
        }
    }
    let config = changed(Sampler::DpmPlusPlus, "timestep_spacing", json!("linspace")).unwrap();
    let message = config.walk(1000).unwrap_err().to_string();
    assert!(message.contains("1000") && message.contains("dpm++"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn walks_are_finite_or_refused(
        sampler in prop::sample::select(Sampler::ALL.to_vec()),
        spacing in prop::sample::select(vec!["leading", "trailing", "linspace"]),
        betas in prop::sample::select(vec!["linear", "scaled_linear", "squaredcos_cap_v2"]),
        karras: bool,
        end in prop::sample::select(vec!["zero", "sigma_min"]),
        count in 2_usize..60,
        share in 0.0_f64..1.0,
    ) {
        let mut all = written(sampler);
        all["timestep_spacing"] = json!(spacing);
        all["beta_schedule"] = json!(betas);
        all["use_karras_sigmas"] = json!(karras);
        all["final_sigmas_type"] = json!(end);
        all["num_train_timesteps"] = json!(count);
        all["original_inference_steps"] = json!(count);
        finite(&parse(all).unwrap(), 1 + (share * count as f64) as usize);
    }
}
