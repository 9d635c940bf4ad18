use serde::{Deserialize, Serialize};

use crate::{Error, KarrasSchedule};

/// `scheduler/scheduler_config.json` of an EDM model: diffusers' `EDMEulerScheduler`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EdmConfig {
    /// Always `EDMEulerScheduler`.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Smallest noise.
    #[serde(default = "sigma_min")]
    pub sigma_min: f64,
    /// Largest noise.
    #[serde(default = "sigma_max")]
    pub sigma_max: f64,
    /// Standard deviation of the data.
    #[serde(default = "sigma_data")]
    pub sigma_data: f64,
    /// Curvature of the grid.
    #[serde(default = "rho")]
    pub rho: f64,
}

fn sigma_min() -> f64 {
    0.002
}
fn sigma_max() -> f64 {
    80.0
}
fn sigma_data() -> f64 {
    0.5
}
fn rho() -> f64 {
    7.0
}

impl Default for EdmConfig {
    fn default() -> Self {
        Self {
            class_name: "EDMEulerScheduler".to_owned(),
            sigma_min: sigma_min(),
            sigma_max: sigma_max(),
            sigma_data: sigma_data(),
            rho: rho(),
        }
    }
}

impl EdmConfig {
    /// Checks that the numbers make a schedule.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] naming the first that does not.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |key: &str, value: String, hint: &str| {
            Err(Error::Unsupported { key: String::from(key), value, hint: hint.to_owned() })
        };
        if self.class_name != "EDMEulerScheduler" {
            let hint = "a model on pixels has EDMEulerScheduler";
            return wrong("_class_name", self.class_name.clone(), hint);
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        for (key, value) in
            [("sigma_min", self.sigma_min), ("sigma_data", self.sigma_data), ("rho", self.rho)]
        {
            if !positive(value) {
                return wrong(key, value.to_string(), "it is a positive number");
            }
        }
        if !(self.sigma_max.is_finite() && self.sigma_max > self.sigma_min) {
            return wrong("sigma_max", self.sigma_max.to_string(), "it is above sigma_min");
        }
        Ok(())
    }

    /// The schedule.
    pub fn schedule(&self) -> KarrasSchedule {
        KarrasSchedule { sigma_min: self.sigma_min, sigma_max: self.sigma_max, rho: self.rho }
    }
}
