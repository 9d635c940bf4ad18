//! The options of a file: computed, neutral, refused by name or reported.

use dmd_core::Prediction;
use dmd_scheduler::{EdmConfig, Sampler, SchedulerConfig};
use serde_json::json;

use crate::{changed, parse, written};

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
            // diffusers writes these for a sampler that makes nothing of them.
            let idle: &[&str] = match sampler {
                Sampler::Lcm => &["set_alpha_to_one"],
                Sampler::Tcd => &["set_alpha_to_one", "clip_sample", "timestep_scaling"],
                _ => &[],
            };
            if idle.contains(&key.as_str()) {
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
