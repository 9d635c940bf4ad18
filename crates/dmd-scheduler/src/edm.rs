use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::options::Options;
use crate::{Error, KarrasSchedule};

/// `scheduler/scheduler_config.json` of an EDM model: diffusers' `EDMEulerScheduler`, or the `KarrasEDMScheduler` of a draft
/// of it (diffusers#4481), which published folders have. A value that exists is valid; the file's text is kept and written
/// back unchanged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct EdmConfig {
    raw: Map<String, Value>,
    schedule: KarrasSchedule,
    sigma_data: f64,
    log_factor: f64,
}

const CLASS: &str = "EDMEulerScheduler";
const DRAFT: &str = "KarrasEDMScheduler";

impl Default for EdmConfig {
    /// Karras et al. 2022: sigma from 0.002 to 80, data of deviation 0.5, rho 7.
    fn default() -> Self {
        let schedule = KarrasSchedule::default();
        let Value::Object(raw) = json!({
            "_class_name": CLASS,
            "sigma_min": schedule.sigma_min,
            "sigma_max": schedule.sigma_max,
            "sigma_data": 0.5,
            "rho": schedule.rho,
        }) else {
            unreachable!("the macro was given an object");
        };
        Self { raw, schedule, sigma_data: 0.5, log_factor: 0.25 }
    }
}

impl TryFrom<Map<String, Value>> for EdmConfig {
    type Error = Error;

    /// `num_train_timesteps` has no effect: the levels are a function of the number of steps.
    fn try_from(raw: Map<String, Value>) -> Result<Self, Error> {
        let options = Options(&raw);
        // The draft says by `sample` what EDM's preconditioning makes of the output, and said `edm` before.
        match options.text("_class_name")? {
            Some(CLASS) => options.only("prediction_type", "epsilon")?,
            Some(DRAFT) => options.choice("prediction_type", &[("sample", ()), ("edm", ())]).map(|_| ())?,
            _ => {
                let hint = format!("a teacher on pixels has {CLASS}, or {DRAFT}");
                return Err(options.refused("_class_name", hint));
            }
        }
        options.only("sigma_schedule", "karras")?;
        let factors = [("edm", 0.25), ("cm_edm", 250.0)];
        let log_factor = options.choice("precondition_type", &factors)?.unwrap_or(0.25);
        options.only("final_sigmas_type", "zero")?;
        let positive = |key: &str, default: f64| match options.number(key, Some(default))? {
            number if number.is_finite() && number > 0.0 => Ok(number),
            _ => Err(options.refused(key, "it must be a positive number")),
        };
        let schedule = KarrasSchedule {
            sigma_min: positive("sigma_min", 0.002)?,
            sigma_max: positive("sigma_max", 80.0)?,
            rho: positive("rho", 7.0)?,
        };
        if schedule.sigma_max <= schedule.sigma_min {
            return Err(options.refused("sigma_max", "it must be above sigma_min"));
        }
        let sigma_data = positive("sigma_data", 0.5)?;
        Ok(Self { schedule, sigma_data, log_factor, raw })
    }
}

impl From<EdmConfig> for Map<String, Value> {
    fn from(config: EdmConfig) -> Self {
        config.raw
    }
}

impl EdmConfig {
    /// The schedule.
    pub fn schedule(&self) -> KarrasSchedule {
        self.schedule
    }

    /// Standard deviation of the data.
    pub fn sigma_data(&self) -> f64 {
        self.sigma_data
    }

    /// What the logarithm of sigma is multiplied by for the network: 1/4 (Karras et al. 2022, table 1); 250 where
    /// `precondition_type` is `cm_edm`, for networks that were trained by the code of consistency models
    /// (openai/consistency_models, `KarrasDenoiser.denoise`).
    pub fn log_factor(&self) -> f64 {
        self.log_factor
    }

    /// Largest noise.
    pub fn sigma_max(&self) -> f64 {
        self.schedule.sigma_max
    }
}
