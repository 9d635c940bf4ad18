use std::path::PathBuf;

use dmd_data::DataSection;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::config::{require, require_count};

/// `[evaluation]` of a distillation: measures of the generator's pictures while it is trained. Prompts and noises are the
/// same at every evaluation of every run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationSection {
    /// Steps from one evaluation to the next. The last step is evaluated too. Each evaluated step has a checkpoint.
    pub every: usize,
    /// Number of prompts; one picture is drawn of each.
    #[serde(default = "prompts")]
    pub prompts: usize,
    /// Number of real pictures for the Fréchet distance, at most.
    #[serde(default = "reals")]
    pub reals: usize,
    /// Inception's file. By default the distance uses the fixed small network `random-conv-v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inception: Option<PathBuf>,
    /// Folder of a CLIPModel with its tokenizer. It adds the CLIP score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<PathBuf>,
    /// Where prompts and real pictures come from; by default the run's own data.
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
