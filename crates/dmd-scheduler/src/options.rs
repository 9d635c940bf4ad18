//! The options of a `scheduler_config.json`, each read as the type it has. A wrong type is an error with key and value.

use serde_json::{Map, Value};

use crate::Error;

/// What [`SchedulerConfig`](crate::SchedulerConfig) and [`EdmConfig`](crate::EdmConfig) are parsed from.
#[derive(Clone, Copy)]
pub(crate) struct Options<'a>(pub(crate) &'a Map<String, Value>);

impl<'a> Options<'a> {
    /// The value of a key; null counts as absent.
    fn value(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn is_stated(self, key: &str) -> bool {
        self.value(key).is_some()
    }

    pub(crate) fn refused(self, key: &str, hint: impl Into<String>) -> Error {
        let value = self.0.get(key).map_or_else(|| "(not stated)".to_owned(), Value::to_string);
        Error::Unsupported { key: key.to_owned(), value, hint: hint.into() }
    }

    pub(crate) fn text(self, key: &str) -> Result<Option<&'a str>, Error> {
        let wrong = || self.refused(key, "it must be a text");
        self.value(key).map(|value| value.as_str().ok_or_else(wrong)).transpose()
    }

    pub(crate) fn flag(self, key: &str, default: bool) -> Result<bool, Error> {
        let wrong = || self.refused(key, "it must be true or false");
        self.value(key).map_or(Ok(default), |value| value.as_bool().ok_or_else(wrong))
    }

    /// A number; Python's infinities arrive as the texts that `dmd_weights::read_json` makes of them.
    pub(crate) fn number(self, key: &str, default: Option<f64>) -> Result<f64, Error> {
        let number = match self.value(key) {
            None => default,
            Some(Value::String(word)) => match word.as_str() {
                "Infinity" => Some(f64::INFINITY),
                "-Infinity" => Some(f64::NEG_INFINITY),
                _ => None,
            },
            Some(value) => value.as_f64(),
        };
        number.ok_or_else(|| self.refused(key, "it must be a number"))
    }

    pub(crate) fn count(self, key: &str, default: usize) -> Result<usize, Error> {
        let wrong = || self.refused(key, "it must be a whole number, 0 or more");
        let Some(value) = self.value(key) else { return Ok(default) };
        value.as_u64().and_then(|count| usize::try_from(count).ok()).ok_or_else(wrong)
    }

    /// What a word stands for; `None` where the file does not state the key.
    pub(crate) fn choice<T: Copy>(self, key: &str, known: &[(&str, T)]) -> Result<Option<T>, Error> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match known.iter().find(|(word, _)| value == word) {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => {
                let words: Vec<_> = known.iter().map(|(word, _)| *word).collect();
                Err(self.refused(key, format!("supported: {}", words.join(", "))))
            }
        }
    }

    /// Refuses an option that must have one word, where the file states another.
    pub(crate) fn only(self, key: &str, word: &str) -> Result<(), Error> {
        self.choice(key, &[(word, ())]).map(|_| ())
    }

    /// Refuses each of these options that is anything but absent, null or false.
    pub(crate) fn off(self, keys: &[&str]) -> Result<(), Error> {
        match keys.iter().find(|key| self.value(key).is_some_and(|value| value != &Value::Bool(false))) {
            Some(key) => Err(self.refused(key, "leave it out")),
            None => Ok(()),
        }
    }
}

/// Every option that a scheduler of diffusers 0.42.1 has which reads the same files: an option of another scheduler is
/// passed over as diffusers does, any other is [reported](crate::SchedulerConfig::ignored).
pub(crate) const KNOWN: &[&str] = &[
    "algorithm_type",
    "beta_end",
    "beta_schedule",
    "beta_start",
    "clip_sample",
    "clip_sample_range",
    "disable_corrector",
    "dynamic_thresholding_ratio",
    "eta",
    "euler_at_final",
    "final_sigmas_type",
    "flow_shift",
    "interpolation_type",
    "lambda_min_clipped",
    "lower_order_final",
    "num_train_timesteps",
    "original_inference_steps",
    "predict_x0",
    "prediction_type",
    "rescale_betas_zero_snr",
    "rho",
    "sample_max_value",
    "set_alpha_to_one",
    "shift_terminal",
    "sigma_data",
    "sigma_max",
    "sigma_min",
    "sigma_schedule",
    "skip_prk_steps",
    "solver_order",
    "solver_p",
    "solver_type",
    "steps_offset",
    "thresholding",
    "time_shift_type",
    "timestep_scaling",
    "timestep_spacing",
    "timestep_type",
    "trained_betas",
    "use_beta_sigmas",
    "use_dynamic_shifting",
    "use_exponential_sigmas",
    "use_flow_sigmas",
    "use_karras_sigmas",
    "use_lu_lambdas",
    "variance_type",
];
