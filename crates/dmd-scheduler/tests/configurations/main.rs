//! `scheduler_config.json`: what is computed, neutral, refused or reported; and every sampler at the ends of what can
//! be asked of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod options;
mod walks;

use dmd_scheduler::{Sampler, SchedulerConfig};
use serde_json::{Value, json};

/// Every option that diffusers 0.42.1 writes for a scheduler, with its default, over Stable Diffusion's schedule.
pub(crate) fn written(sampler: Sampler) -> Value {
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
        Sampler::Lcm | Sampler::Tcd => {
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

pub(crate) fn parse(value: Value) -> Result<SchedulerConfig, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

pub(crate) fn changed(sampler: Sampler, key: &str, value: Value) -> Result<SchedulerConfig, String> {
    let mut all = written(sampler);
    all[key] = value;
    parse(all)
}
