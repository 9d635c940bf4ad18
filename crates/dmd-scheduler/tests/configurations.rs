//! `scheduler_config.json`: what is computed, neutral, refused or reported; and every sampler at the ends of what can
//! be asked of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::ControlFlow;

use burn::tensor::{Device, Tensor};
use dmd_core::{GaussianMixture, Prediction};
use dmd_scheduler::{EdmConfig, Error, Sampler, SchedulerConfig};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Every option that diffusers 0.42.1 writes for a scheduler, with its default, over Stable Diffusion's schedule.
fn written(sampler: Sampler) -> Value {
    let own = match sampler {
        Sampler::Ddim => json!({"clip_sample": false, "set_alpha_to_one": true, "thresholding": false,
            "dynamic_thresholding_ratio": 0.995, "clip_sample_range": 1.0, "sample_max_value": 1.0,
            "rescale_betas_zero_snr": false}),
        Sampler::Ddpm => json!({"variance_type": "fixed_small", "clip_sample": false, "thresholding": false,
            "dynamic_thresholding_ratio": 0.995, "clip_sample_range": 1.0, "sample_max_value": 1.0,
            "rescale_betas_zero_snr": false}),
        Sampler::Pndm => json!({"skip_prk_steps": true, "set_alpha_to_one": false}),
        Sampler::Euler => json!({"interpolation_type": "linear", "use_karras_sigmas": false,
            "use_exponential_sigmas": false, "use_beta_sigmas": false, "sigma_min": null, "sigma_max": null,
            "timestep_type": "discrete", "rescale_betas_zero_snr": false, "final_sigmas_type": "zero"}),
        Sampler::EulerAncestral => json!({"rescale_betas_zero_snr": false}),
        Sampler::Heun => json!({"use_karras_sigmas": false, "use_exponential_sigmas": false,
            "use_beta_sigmas": false, "clip_sample": false, "clip_sample_range": 1.0}),
        Sampler::DpmPlusPlus => json!({"solver_order": 2, "thresholding": false,
            "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0, "algorithm_type": "dpmsolver++",
            "solver_type": "midpoint", "lower_order_final": true, "euler_at_final": false,
            "use_karras_sigmas": false, "use_exponential_sigmas": false, "use_beta_sigmas": false,
            "use_lu_lambdas": false, "use_flow_sigmas": false, "flow_shift": 1.0, "final_sigmas_type": "zero",
            "lambda_min_clipped": "-Infinity", "variance_type": null, "rescale_betas_zero_snr": false,
            "use_dynamic_shifting": false, "time_shift_type": "exponential"}),
        Sampler::UniPc => {
            json!({"solver_order": 2, "thresholding": false, "dynamic_thresholding_ratio": 0.995,
            "sample_max_value": 1.0, "predict_x0": true, "solver_type": "bh2", "lower_order_final": true,
            "disable_corrector": [], "solver_p": null, "use_karras_sigmas": false,
            "use_exponential_sigmas": false, "use_beta_sigmas": false, "use_flow_sigmas": false,
            "flow_shift": 1.0, "final_sigmas_type": "zero", "rescale_betas_zero_snr": false,
            "use_dynamic_shifting": false, "time_shift_type": "exponential", "sigma_min": null,
            "sigma_max": null, "shift_terminal": null})
        }
        Sampler::Lcm => {
            json!({"original_inference_steps": 50, "clip_sample": false, "clip_sample_range": 1.0,
            "set_alpha_to_one": true, "thresholding": false, "dynamic_thresholding_ratio": 0.995,
            "sample_max_value": 1.0, "timestep_scaling": 10.0, "rescale_betas_zero_snr": false})
        }
    };
    let mut all = json!({"_class_name": sampler.class_name(), "_diffusers_version": "0.42.1",
        "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "trained_betas": null, "prediction_type": "epsilon", "timestep_spacing": "leading", "steps_offset": 1});
    all.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    all
}

fn parse(value: Value) -> Result<SchedulerConfig, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn changed(sampler: Sampler, key: &str, value: Value) -> Result<SchedulerConfig, String> {
    let mut all = written(sampler);
    all[key] = value;
    parse(all)
}

#[test]
fn what_diffusers_writes_is_walked_and_written_back() {
    for sampler in Sampler::ALL {
        let all = written(sampler);
        let config = parse(all.clone()).unwrap();
        assert_eq!(config.sampler(), Ok(sampler));
        assert!(config.ignored().is_empty());
        config.walk(20).unwrap();
        assert_eq!(serde_json::to_value(&config).unwrap(), all);
    }
}

/// No option is passed over: each with a value of a wrong type, or one that changes the picture, is refused by name.
#[test]
fn every_option_is_read() {
    // Without an effect while their switch is off; LCM's end and offset have none in diffusers, either.
    let inert = [
        "dynamic_thresholding_ratio",
        "clip_sample_range",
        "sample_max_value",
        "flow_shift",
        "time_shift_type",
        "_diffusers_version",
    ];
    for sampler in Sampler::ALL {
        let all = written(sampler);
        for key in all.as_object().unwrap().keys().filter(|key| !inert.contains(&key.as_str())) {
            if sampler == Sampler::Lcm && key == "set_alpha_to_one" {
                continue;
            }
            let message = match changed(sampler, key, json!({ "wrong": "type" })) {
                Err(message) => message,
                Ok(config) => config.walk(20).unwrap_err().to_string(),
            };
            assert!(message.contains(key.as_str()), "{sampler:?}, {key}: {message}");
        }
    }
}

#[test]
fn options_that_are_not_computed_are_refused_by_name() {
    use Sampler::{Ddim, Ddpm, DpmPlusPlus, Euler, Heun, Pndm, UniPc};
    for (sampler, key, value) in [
        (Ddim, "clip_sample", json!(true)),
        (Ddim, "thresholding", json!(true)),
        (Ddpm, "variance_type", json!("learned")),
        (Pndm, "skip_prk_steps", json!(false)),
        (Euler, "use_beta_sigmas", json!(true)),
        (Euler, "timestep_type", json!("continuous")),
        (Euler, "sigma_max", json!(10.0)),
        (Heun, "use_exponential_sigmas", json!(true)),
        (DpmPlusPlus, "use_lu_lambdas", json!(true)),
        (DpmPlusPlus, "algorithm_type", json!("sde-dpmsolver++")),
        (DpmPlusPlus, "solver_order", json!(3)),
        (DpmPlusPlus, "variance_type", json!("learned_range")),
        (DpmPlusPlus, "lambda_min_clipped", json!("Infinity")),
        (UniPc, "disable_corrector", json!([0])),
        (UniPc, "shift_terminal", json!(0.1)),
    ] {
        // The folder opens, since another sampler can walk it.
        let config = changed(sampler, key, value).unwrap();
        let message = config.walk(20).unwrap_err().to_string();
        assert!(message.contains(key), "{message}");
        config
            .with_sampler(Sampler::EulerAncestral)
            .unwrap()
            .walk(20)
            .unwrap_or_else(|error| panic!("{key} of {sampler:?} counts for another sampler: {error}"));
    }
    for (key, value) in [
        ("beta_schedule", json!("sigmoid")),
        ("beta_start", json!("0.1")),
        ("beta_end", json!(1.0)),
        ("prediction_type", json!("flow")),
        ("trained_betas", json!([0.1, 0.2])),
        ("num_train_timesteps", json!(0)),
        ("num_train_timesteps", json!(1)),
        ("num_train_timesteps", json!("1000")),
        ("steps_offset", json!(-1)),
        ("steps_offset", json!(1000)),
        ("timestep_spacing", json!("even")),
        ("rescale_betas_zero_snr", json!(true)), // with predicted noise
    ] {
        let message = changed(Ddim, key, value).unwrap_err();
        assert!(message.contains(key), "{message}");
    }
}

/// A key of no scheduler is reported and kept.
#[test]
fn foreign_keys_are_reported_and_kept() {
    let config = changed(Sampler::Ddim, "use_karas_sigmas", json!(true)).unwrap();
    assert_eq!(config.ignored(), ["use_karas_sigmas"]);
    assert_eq!(serde_json::to_value(&config).unwrap()["use_karas_sigmas"], true);
}

/// Absent options have the class's defaults in diffusers.
#[test]
fn absent_options_have_the_defaults_of_their_class() {
    let bare = |class: &str| parse(json!({ "_class_name": class })).unwrap();
    let first = |class: &str| bare(class).schedule().alpha_cumprod(0);
    assert!((first("EulerDiscreteScheduler") - 0.9999).abs() < 1e-12);
    assert!((first("HeunDiscreteScheduler") - 0.99915).abs() < 1e-12);
    // diffusers clamps samples unless told not to, and PNDM starts with Runge-Kutta steps.
    assert!(bare("DDIMScheduler").walk(20).unwrap_err().to_string().contains("clip_sample"));
    assert!(bare("PNDMScheduler").walk(20).unwrap_err().to_string().contains("skip_prk_steps"));
}

/// A folder of a sampler that is not known here opens; its schedule is read, and another sampler walks it.
#[test]
fn unknown_samplers_lend_their_schedule() {
    let mut own = written(Sampler::DpmPlusPlus);
    own["_class_name"] = json!("DEISMultistepScheduler");
    own["algorithm_type"] = json!("deis");
    own["solver_type"] = json!("logrho");
    own["prediction_type"] = json!("v_prediction");
    let config = parse(own).unwrap();
    assert_eq!(config.prediction(), Prediction::Velocity);
    assert_eq!(config.schedule(), SchedulerConfig::stable_diffusion().schedule());
    let message = config.walk(5).unwrap_err().to_string();
    assert!(message.contains("DEISMultistepScheduler") && message.contains("--sampler"), "{message}");
    for sampler in Sampler::ALL {
        let config = config.with_option("clip_sample", false).unwrap().with_option("skip_prk_steps", true);
        config.unwrap().with_sampler(sampler).unwrap().walk(5).unwrap();
    }
}

/// diffusers' StableDiffusionPipeline sets these whatever the file says.
#[test]
fn stable_diffusion_has_an_offset_of_one() {
    for sampler in Sampler::ALL {
        let mut old = written(sampler);
        old["steps_offset"] = json!(0);
        let (config, changes) = parse(old.clone()).unwrap().for_stable_diffusion().unwrap();
        assert_eq!(changes.len(), 1, "{changes:?}");
        let right = parse(written(sampler)).unwrap();
        assert_eq!(config.walk(10).unwrap().timesteps(), right.walk(10).unwrap().timesteps());
        old.as_object_mut().unwrap().remove("steps_offset");
        let (absent, changes) = parse(old).unwrap().for_stable_diffusion().unwrap();
        assert_eq!((absent, changes.len()), (config, 1));
        assert!(right.for_stable_diffusion().unwrap().1.is_empty());
    }
    let clipped = changed(Sampler::Ddim, "clip_sample", json!(true)).unwrap();
    let (config, changes) = clipped.for_stable_diffusion().unwrap();
    config.walk(10).unwrap();
    assert!(changes.len() == 1 && changes[0].contains("clip_sample"), "{changes:?}");
}

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

#[test]
fn edm_configurations() {
    let parse = |value| serde_json::from_value::<EdmConfig>(value).map_err(|error| error.to_string());
    let all = json!({"_class_name": "EDMEulerScheduler", "_diffusers_version": "0.42.1", "sigma_min": 0.01,
        "sigma_max": 50.0, "sigma_data": 1.0, "sigma_schedule": "karras", "num_train_timesteps": 1000,
        "prediction_type": "epsilon", "rho": 5.0, "final_sigmas_type": "zero"});
    let config = parse(all.clone()).unwrap();
    assert_eq!((config.sigma_max(), config.sigma_data(), config.schedule().rho), (50.0, 1.0, 5.0));
    assert_eq!(serde_json::to_value(&config).unwrap(), all);
    let default = parse(serde_json::to_value(EdmConfig::default()).unwrap()).unwrap();
    assert_eq!(default, EdmConfig::default());
    for (key, value) in [
        ("_class_name", json!("DDIMScheduler")),
        ("sigma_min", json!(0.0)),
        ("sigma_max", json!(0.001)),
        ("sigma_data", json!("0.5")),
        ("sigma_schedule", json!("exponential")),
        ("prediction_type", json!("v_prediction")),
        ("final_sigmas_type", json!("sigma_min")),
    ] {
        let mut wrong = all.clone();
        wrong[key] = value;
        let message = parse(wrong).unwrap_err();
        assert!(message.contains(key), "{message}");
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
