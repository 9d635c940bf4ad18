//! LoRA files that are merged into a model's weights when they are read.

use dmd_weights::{LoraFile, LoraPart, Tensors};

use crate::{Error, OpenOptions};

/// A LoRA file, and how strongly its updates are added.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraOption {
    /// The file.
    pub path: std::path::PathBuf,
    /// What the updates are multiplied by, besides their own factor; 1 as trained, 0 without effect, below 0 the opposite.
    pub strength: f64,
}

/// The LoRA files of a model that is being opened.
pub(crate) struct Loras(Vec<(LoraFile, LoraOption)>);

impl Loras {
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn open(options: &OpenOptions) -> Result<Self, Error> {
        let open = |option: &LoraOption| {
            if !option.strength.is_finite() {
                return Err(Error::Setting {
                    setting: format!("a LoRA strength of {}", option.strength),
                    hint: "it must be a finite number".to_owned(),
                });
            }
            Ok((LoraFile::read(&option.path)?, option.clone()))
        };
        Ok(Self(options.loras.iter().map(open).collect::<Result<_, Error>>()?))
    }

    /// The weights of a part with every file's updates added, when they are read.
    pub(crate) fn merged(&mut self, part: LoraPart, mut weights: Tensors) -> Result<Tensors, Error> {
        for (file, option) in &mut self.0 {
            let updates = file.fit(part, &weights)?;
            weights = weights.merged(&updates, option.strength)?;
        }
        Ok(weights)
    }

    /// What became of each file, a sentence each.
    ///
    /// # Errors
    ///
    /// When a file changed nothing.
    pub(crate) fn report(self) -> Result<Vec<String>, Error> {
        let sentence = |(file, option): &(LoraFile, LoraOption)| {
            Ok(format!("{}: {}, strength {}", option.path.display(), file.report()?, option.strength))
        };
        self.0.iter().map(sentence).collect()
    }
}
