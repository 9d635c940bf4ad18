//! Configuration files of `dmd teacher` and `dmd distill`: TOML, unknown keys refused.

mod distill;
mod pixel_teacher;
mod teacher;

use std::fs;
use std::path::Path;

pub use dmd_data::DataSection;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::distill::{
    AdversarialSection, DistillConfig, FakeSection, Fingerprints, FrozenPrecision, GeneratorSection,
    MatchingSection, Measure, PerceptualSection, RegressionSection,
};
pub use self::pixel_teacher::{PixelKind, PixelTeacherConfig, PixelTrainingSection, PixelUNetSection};
pub use self::teacher::{
    AutoencoderSection, DiffusionSection, GroundingSection, TeacherConfig, TextSection, UNetSection,
};
use crate::Error;

fn require(holds: bool, key: &'static str, value: impl ToString, must: &'static str) -> Result<(), Error> {
    if holds {
        return Ok(());
    }
    Err(Error::Option { key, value: value.to_string(), must })
}

fn is_positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

fn is_not_negative(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

/// Reads a TOML file into a configuration.
///
/// # Errors
///
/// [`Error::ReadConfig`], or [`Error::ParseConfig`] naming line and key.
pub fn from_file<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
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
