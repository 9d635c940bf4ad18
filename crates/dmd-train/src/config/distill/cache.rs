use std::path::{Path, PathBuf};

use dmd_data::Dataset;
use dmd_model::{ModelFolder, Part};
use dmd_weights::Precision;
use serde::{Deserialize, Serialize};

use super::DistillConfig;
use crate::Error;
use crate::cache::CacheFingerprints;
use crate::fingerprint::{self, Fingerprint};

/// `[cache]` of a distillation: a folder for latents and features of captions, which are then computed once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheSection {
    /// The folder. Several runs can share one.
    pub path: PathBuf,
    /// How latents are written: `f32`, or `f16` in half the space.
    #[serde(default, skip_serializing_if = "LatentPrecision::is_default")]
    pub latents: LatentPrecision,
}

/// The float type of latents in a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum LatentPrecision {
    /// f32: the losses are those of a run without a cache.
    #[default]
    #[serde(rename = "f32")]
    Single,
    /// f16: half the space.
    #[serde(rename = "f16")]
    Half,
}

impl LatentPrecision {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl From<LatentPrecision> for Precision {
    fn from(precision: LatentPrecision) -> Self {
        match precision {
            LatentPrecision::Single => Self::Single,
            LatentPrecision::Half => Self::Half,
        }
    }
}

impl DistillConfig {
    /// What the files of the cache depend on. The autoencoder and the text encoders are read whole for it.
    ///
    /// # Errors
    ///
    /// When a file of the teacher cannot be read.
    pub fn cache_fingerprints(&self, dataset: &dyn Dataset) -> Result<CacheFingerprints, Error> {
        let hash = |parts: &[Part]| fingerprint::of_files(&teacher_parts(&self.teacher, parts));
        let encoders = [Part::TextEncoder, Part::Tokenizer, Part::TextEncoder2, Part::Tokenizer2];
        let data = Fingerprint::new().with("data", dataset.fingerprint())?;
        let precision = self.cache.as_ref().map(|section| section.latents).unwrap_or_default();
        let latents = data.clone().with("autoencoder", hash(&[Part::Autoencoder])?)?;
        let latents = latents.with("data.size", dataset.size().ok())?.with("cache.latents", precision)?;
        Ok(CacheFingerprints { latents, text: data.with("text_encoder", hash(&encoders)?)? })
    }
}

/// The folders of a teacher's parts; of a single file, the file.
fn teacher_parts(teacher: &Path, parts: &[Part]) -> Vec<PathBuf> {
    if teacher.is_file() {
        return vec![teacher.to_owned()];
    }
    let folder = ModelFolder::new(teacher);
    parts.iter().map(|part| folder.part(*part)).collect()
}
