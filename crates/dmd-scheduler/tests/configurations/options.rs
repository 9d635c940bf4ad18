//! The options of a file: computed, neutral, refused by name or reported.

use dmd_core::Prediction;
use dmd_scheduler::{EdmConfig, Sampler, SchedulerConfig, Steps};
use serde_json::{Value, json};

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
    use Sampler::{Ddim, Ddpm, DpmPlusPlus, Euler, Heun, Lcm, Pndm, Tcd, UniPc};
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
        (Lcm, "clip_sample", json!(true)),
        (Lcm, "thresholding", json!(true)),
        (Tcd, "thresholding", json!(true)),
        (Tcd, "eta", json!(1.5)),
        (Tcd, "eta", json!(-0.1)),
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
    for class in ["LCMScheduler", "TCDScheduler"] {
        assert_eq!(bare(class).schedule(), SchedulerConfig::stable_diffusion().schedule(), "{class}");
    }
    // diffusers clamps samples unless told not to, and PNDM starts with Runge-Kutta steps.
    assert!(bare("DDIMScheduler").walk(20).unwrap_err().to_string().contains("clip_sample"));
    assert!(bare("PNDMScheduler").walk(20).unwrap_err().to_string().contains("skip_prk_steps"));
}

/// Options that a sampler computes, with values other than diffusers' defaults.
fn unusual(sampler: Sampler) -> Value {
    match sampler {
        Sampler::Ddim => json!({"set_alpha_to_one": false, "rescale_betas_zero_snr": true}),
        Sampler::Ddpm => json!({"variance_type": "fixed_large", "rescale_betas_zero_snr": true}),
        Sampler::Pndm => json!({"set_alpha_to_one": true}),
        Sampler::Euler => json!({"use_karras_sigmas": true, "final_sigmas_type": "sigma_min",
            "rescale_betas_zero_snr": true}),
        Sampler::EulerAncestral => json!({"rescale_betas_zero_snr": true}),
        Sampler::Heun => json!({"use_karras_sigmas": true}),
        Sampler::DpmPlusPlus => json!({"solver_order": 1, "solver_type": "heun", "lower_order_final": false,
            "euler_at_final": true, "use_karras_sigmas": true, "final_sigmas_type": "sigma_min",
            "rescale_betas_zero_snr": true}),
        Sampler::UniPc => json!({"solver_order": 1, "solver_type": "bh1", "use_karras_sigmas": true,
            "final_sigmas_type": "sigma_min", "rescale_betas_zero_snr": true}),
        Sampler::Lcm => json!({"original_inference_steps": 25, "timestep_scaling": 5.0,
            "rescale_betas_zero_snr": true}),
        Sampler::Tcd => json!({"original_inference_steps": 25, "eta": 0.7, "rescale_betas_zero_snr": true}),
    }
}

/// A key that the file states counts for every sampler that has it, whichever sampler's file it is, as in diffusers'
/// `from_config`: one key at a time, for every pair of samplers.
#[test]
fn keys_of_a_file_count_for_every_sampler() {
    for to in Sampler::ALL {
        let Value::Object(options) = unusual(to) else { panic!("an object") };
        for (key, value) in options {
            let mut own = written(to);
            own["prediction_type"] = json!("v_prediction");
            let usual = parse(own.clone()).unwrap();
            own[&key] = value.clone();
            let expected = parse(own).unwrap();
            let differ = usual.walk(8).unwrap() != expected.walk(8).unwrap();
            assert!(differ, "{key} = {value} makes no difference to {to:?}");
            for from in Sampler::ALL {
                // Of the file only what no sampler has alone, and the key.
                let shared = ["beta_start", "beta_end", "beta_schedule", "steps_offset", "timestep_spacing"];
                let mut file = json!({"_class_name": from.class_name(), "prediction_type": "v_prediction",
                    "clip_sample": false, "skip_prk_steps": true});
                for key in shared {
                    file[key] = written(from)[key].clone();
                }
                if to == Sampler::Pndm || to == Sampler::Ddim {
                    file["set_alpha_to_one"] = written(to)["set_alpha_to_one"].clone();
                }
                file[&key] = value.clone();
                let config = parse(file).unwrap().with_sampler(to).unwrap();
                assert_eq!(
                    config.walk(8).unwrap(),
                    expected.walk(8).unwrap(),
                    "{key} in a file of {from:?}, walked by {to:?}"
                );
            }
        }
    }
}

/// `scheduler/scheduler_config.json` of stable-diffusion-xl-base-1.0.
fn sdxl() -> SchedulerConfig {
    let file = json!({"_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0",
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": false,
        "interpolation_type": "linear", "num_train_timesteps": 1000, "prediction_type": "epsilon",
        "sample_max_value": 1.0, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
        "timestep_spacing": "leading", "trained_betas": null, "use_karras_sigmas": false});
    parse(file).unwrap()
}

/// The recorded walks of published few-step models, from SDXL's own file with another sampler and these options: its
/// keys for other samplers are honoured. Without them DDIM refuses to walk, and ends elsewhere.
#[test]
fn published_walks_from_the_file_of_sdxl() {
    use Sampler::{Ddim, Euler, EulerAncestral, Lcm, Tcd};
    let trailing = || json!({"timestep_spacing": "trailing"});
    for (name, sampler, options, steps) in [
        ("dmd2_1step", Lcm, json!({}), Steps::Timesteps(vec![399])),
        ("dmd2_4step", Lcm, json!({}), Steps::Timesteps(vec![999, 749, 499, 249])),
        ("lcm", Lcm, json!({}), Steps::Count(4)),
        (
            "lightning_1step",
            Euler,
            json!({"timestep_spacing": "trailing", "prediction_type": "sample"}),
            Steps::Count(1),
        ),
        ("lightning_2step", Euler, trailing(), Steps::Count(2)),
        ("lightning_4step", Euler, trailing(), Steps::Count(4)),
        ("lightning_8step", Euler, trailing(), Steps::Count(8)),
        ("hyper_1step", Tcd, json!({"eta": 1.0}), Steps::Count(1)),
        ("hyper_1step_unet", Lcm, json!({}), Steps::Timesteps(vec![800])),
        ("hyper_2step", Ddim, trailing(), Steps::Count(2)),
        ("hyper_4step", Ddim, trailing(), Steps::Count(4)),
        ("hyper_8step", Ddim, trailing(), Steps::Count(8)),
        ("turbo_1step", Euler, trailing(), Steps::Count(1)),
        ("turbo_xl_1step", EulerAncestral, trailing(), Steps::Count(1)),
        ("turbo_xl_4step", EulerAncestral, trailing(), Steps::Count(4)),
        ("tcd", Tcd, json!({}), Steps::Count(4)),
    ] {
        let path = format!("{}/../../tests/golden/walks/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let recorded: SchedulerConfig = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let mut config = sdxl().with_sampler(sampler).unwrap();
        for (key, value) in options.as_object().unwrap() {
            config = config.with_option(key, value.clone()).unwrap();
        }
        assert_eq!(config.sampler(), recorded.sampler(), "{name}");
        assert_eq!(config.prediction(), recorded.prediction(), "{name}");
        assert_eq!(config.walk(steps.clone()).unwrap(), recorded.walk(steps).unwrap(), "{name}");
    }
    let without = |key: &str| {
        let Value::Object(mut file) = serde_json::to_value(sdxl()).unwrap() else { panic!("an object") };
        file.remove(key);
        parse(file.into()).unwrap().with_sampler(Sampler::Ddim).unwrap().walk(4)
    };
    assert!(without("clip_sample").unwrap_err().to_string().contains("clip_sample"));
    let walk = sdxl().with_sampler(Sampler::Ddim).unwrap().walk(4).unwrap();
    assert!(without("set_alpha_to_one").unwrap() != walk, "the last step ends at timestep 0");
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
    assert_eq!(config.log_factor(), 0.25);
    // A published folder of the draft's scheduler, as `dmd_weights::read_json` reads it.
    let mut draft = json!({"_class_name": "KarrasEDMScheduler", "_diffusers_version": "0.24.0.dev0",
        "clip_sample": false, "clip_sample_range": 1.0, "num_train_timesteps": 40, "precondition_type": "edm",
        "prediction_type": "sample", "rho": 7.0, "s_churn": 0.0, "s_noise": 1.0, "s_tmax": "Infinity", "s_tmin": 0.0,
        "sigma_data": 0.5, "sigma_max": 80.0, "sigma_min": 0.002, "timestep_spacing": "linspace"});
    let config = parse(draft.clone()).unwrap();
    assert_eq!((config.schedule(), config.log_factor()), (EdmConfig::default().schedule(), 0.25));
    draft["precondition_type"] = json!("cm_edm");
    assert_eq!(parse(draft.clone()).unwrap().log_factor(), 250.0);
    draft["precondition_type"] = json!("vp");
    assert!(parse(draft).unwrap_err().contains("precondition_type"));
    for (key, value) in [
        ("_class_name", json!("DDIMScheduler")),
        ("_class_name", json!("CMStochasticIterativeScheduler")),
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
