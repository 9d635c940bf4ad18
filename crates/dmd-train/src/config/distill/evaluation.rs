use std::path::PathBuf;

use dmd_data::DataSection;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::config::{require, require_count};

/// `[evaluation]` of a distillation: measures of the generator's pictures while it is trained. The prompts and noises are
/// the same at every evaluation of every run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationSection {
    /// An evaluation every so many steps, and one after the last step. Each has a checkpoint.
    pub every: usize,
    /// Prompts, one picture of each.
    #[serde(default = "prompts")]
    pub prompts: usize,
    /// Real pictures that the Fréchet distance is taken to, where there are so many.
    #[serde(default = "reals")]
    pub reals: usize,
    /// Inception's file; left out, the distance is that of the fixed small network `random-conv-v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inception: Option<PathBuf>,
    /// Folder of a CLIPModel with its tokenizer, for the CLIP score; left out, there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<PathBuf>,
    /// Where prompts and real pictures come from; left out, from the run's own data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataSection>,
}

fn prompts() -> usize {
    400
}

fn reals() -> usize {
    2000
}

impl EvaluationSection {
    pub(super) fn check(&self) -> Result<(), Error> {
        require_count("evaluation.every", self.every)?;
        require(self.prompts >= 2, "evaluation.prompts", self.prompts, "at least 2")?;
        require(self.reals >= 2, "evaluation.reals", self.reals, "at least 2")
    }
}
