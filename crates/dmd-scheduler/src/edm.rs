use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::options::Options;
use crate::{Error, KarrasSchedule};

/// `scheduler/scheduler_config.json` of an EDM model: diffusers' `EDMEulerScheduler`. A value that exists is valid; the
/// file's text is kept and written back unchanged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct EdmConfig {
    raw: Map<String, Value>,
    schedule: KarrasSchedule,
    sigma_data: f64,
}

const CLASS: &str = "EDMEulerScheduler";

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
        Self { raw, schedule, sigma_data: 0.5 }
    }
}

impl TryFrom<Map<String, Value>> for EdmConfig {
    type Error = Error;

    /// `num_train_timesteps` has no effect: the levels are a function of the number of steps.
    fn try_from(raw: Map<String, Value>) -> Result<Self, Error> {
        let options = Options(&raw);
        if options.text("_class_name")? != Some(CLASS) {
            return Err(options.refused("_class_name", format!("a model on pixels has {CLASS}")));
        }
        options.only("sigma_schedule", "karras")?;
        options.only("prediction_type", "epsilon")?;
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
        Ok(Self { schedule, sigma_data, raw })
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

    /// Largest noise.
    pub fn sigma_max(&self) -> f64 {
        self.schedule.sigma_max
    }
}
