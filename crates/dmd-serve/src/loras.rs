//! Strengths of LoRA files, which a request may choose.

use std::collections::BTreeMap;

use dmd_infer::{LoraOption, Pipeline};
use serde_json::{Value, json};

use crate::answer::Failure;

/// Largest strength, of either sign: beyond it pictures are noise.
const MOST: f64 = 4.0;

/// The LoRA files that the model was opened with. A request chooses among their strengths; no request opens a file.
#[derive(Debug)]
pub(crate) struct Loras {
    /// Names and files; the names are those of the files without their endings.
    all: Vec<(String, LoraOption)>,
}

impl Loras {
    pub(crate) fn of(pipeline: &Pipeline) -> Self {
        let mut all: Vec<(String, LoraOption)> = Vec::new();
        for lora in pipeline.loras() {
            let stem = lora.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let same =
                all.iter().filter(|(_, other)| other.path.file_stem() == lora.path.file_stem()).count();
            let name = if same == 0 { stem } else { format!("{stem}-{}", same + 1) };
            all.push((name, lora.clone()));
        }
        Self { all }
    }

    /// The strength of every file: what is asked for, or that of the start.
    pub(crate) fn strengths(&self, asked: &BTreeMap<String, f64>) -> Result<Vec<f64>, Failure> {
        let known: Vec<&str> = self.all.iter().map(|(name, _)| name.as_str()).collect();
        for (name, strength) in asked {
            if !known.contains(&name.as_str()) {
                return Err(Failure::Request(match known.is_empty() {
                    true => format!("there is no LoRA {name:?}: this server was started without --lora"),
                    false => format!("there is no LoRA {name:?}; this server has {known:?}"),
                }));
            }
            if !(-MOST..=MOST).contains(strength) {
                return Err(Failure::Request(format!(
                    "{name} at strength {strength}; it may be from -{MOST} to {MOST}"
                )));
            }
        }
        Ok(self.all.iter().map(|(name, lora)| asked.get(name).copied().unwrap_or(lora.strength)).collect())
    }

    /// The files at these strengths.
    pub(crate) fn at(&self, strengths: &[f64]) -> Vec<LoraOption> {
        let at = |((_, lora), strength): (&(String, LoraOption), &f64)| LoraOption {
            strength: *strength,
            ..lora.clone()
        };
        self.all.iter().zip(strengths).map(at).collect()
    }

    /// Names and strengths at the start.
    pub(crate) fn json(&self) -> Value {
        let of = |(name, lora): &(String, LoraOption)| json!({"name": name, "strength": lora.strength});
        self.all.iter().map(of).collect()
    }
}
