//! Configuration files of `dmd teacher` and `dmd distill`: TOML, unknown keys refused.

mod distill;
mod pixel_teacher;
mod teacher;

use std::fs;
use std::path::Path;

use dmd_core::TimeDistribution;
use dmd_data::DataSection;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::distill::{
    CacheSection, DistillConfig, EvaluationSection, Fingerprints, FrozenPrecision, LatentPrecision,
    PerceptualSection, Schedule, TrainedPrecision,
};
pub(crate) use self::distill::{Measure, ObjectiveSection, RegressionSection};
pub use self::pixel_teacher::PixelTeacherConfig;
pub use self::teacher::{AutoencoderSection, TeacherConfig, TeacherOptimizer};
pub(crate) use self::teacher::{DiffusionSection, GroundingSection};
use crate::{AdamWConfig, Error};

pub(crate) fn require(
    holds: bool,
    key: &'static str,
    value: impl ToString,
    must: &'static str,
) -> Result<(), Error> {
    if holds {
        return Ok(());
    }
    Err(Error::Option { key, value: value.to_string(), must })
}

fn require_count(key: &'static str, value: usize) -> Result<(), Error> {
    require(value > 0, key, value, "at least 1")
}

fn require_positive(key: &'static str, value: f64) -> Result<(), Error> {
    require(value.is_finite() && value > 0.0, key, value, "a positive number")
}

fn require_not_negative(key: &'static str, value: f64) -> Result<(), Error> {
    require(value.is_finite() && value >= 0.0, key, value, "0 or more")
}

/// A share of something, less than all of it.
fn require_share(key: &'static str, value: f64) -> Result<(), Error> {
    require((0.0..1.0).contains(&value), key, value, "between 0 and 1")
}

fn require_times(key: &'static str, times: TimeDistribution) -> Result<(), Error> {
    match times {
        TimeDistribution::Uniform => Ok(()),
        TimeDistribution::Shifted { shift } => {
            require(shift.is_finite() && shift > 0.0, key, format!("a shift of {shift}"), "a positive shift")
        }
        TimeDistribution::LogNormal { mean, std } => require(
            mean.is_finite() && std.is_finite() && std > 0.0,
            key,
            format!("a mean of {mean} with std {std}"),
            "a number as the mean and a positive std",
        ),
    }
}

fn check_optimizer(optimizer: &AdamWConfig) -> Result<(), Error> {
    require_share("optimizer.beta1", optimizer.beta1)?;
    require_share("optimizer.beta2", optimizer.beta2)?;
    require_positive("optimizer.epsilon", optimizer.epsilon)?;
    require_not_negative("optimizer.weight_decay", optimizer.weight_decay)?;
    require_positive("optimizer.max_norm", optimizer.max_norm)
}

/// Reads a TOML file into a configuration.
///
/// # Errors
///
/// [`Error::ReadConfig`], or [`Error::ParseConfig`] naming line and key.
fn from_file<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text =
        fs::read_to_string(path).map_err(|source| Error::ReadConfig { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|error| Error::ParseConfig {
        path: path.to_owned(),
        reason: error.to_string().trim().replace('\n', " "),
    })
}

/// Writes a configuration, every default spelt out, as `config.toml` into a run's folder.
///
/// # Errors
///
/// [`Error::ParseConfig`] when it has no TOML form, [`Error::Weights`] when it cannot be written.
pub fn save<T: Serialize>(config: &T, run: &Path) -> Result<(), Error> {
    let path = run.join("config.toml");
    let text = toml::to_string_pretty(config)
        .map_err(|error| Error::ParseConfig { path: path.clone(), reason: error.to_string() })?;
    Ok(dmd_weights::write_atomic(&path, text.as_bytes())?)
}
