//! LoRA files, which are merged into a model's weights when the weights are read.

use std::collections::BTreeSet;

use dmd_weights::{LoraFile, LoraPart, Tensors};

use crate::recipe::Called;
use crate::{Error, OpenOptions, RecipeFile, published};

/// A LoRA file, and the strength with which its updates are added.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraOption {
    /// The file.
    pub path: std::path::PathBuf,
    /// Factor of the updates, in addition to their own. 1 is the strength of training, 0 has no effect, and a negative
    /// number subtracts the updates.
    pub strength: f64,
}

impl LoraOption {
    /// Whether the file turns a model into a few-step generator: its metadata or its name says how that generator is
    /// called.
    pub fn makes_few_steps(&self) -> bool {
        self.recipe().is_some()
    }

    /// How to call the generator into which the file turns a model. The file's metadata says so; otherwise the file's
    /// name may be that of a published recipe.
    pub(crate) fn recipe(&self) -> Option<Called> {
        if self.strength == 0.0 {
            return None;
        }
        // An invalid text is ignored here. It is refused when the file is opened.
        let written = RecipeFile::of_lora(&self.path).ok().flatten();
        let written = written.map(|written| Called::Written(written, self.path.clone()));
        written.or_else(|| published::guess(&self.path).map(Called::Named))
    }
}

/// A replacement of the LoRA files of an opened model by others.
pub(crate) struct Change {
    /// `None` if the old files cannot be read any more. Every weight is then treated as changed.
    pub(crate) before: Option<Loras>,
    pub(crate) after: Loras,
}

impl Change {
    /// The names of a part's weights that the old or the new files change.
    pub(crate) fn touched(&mut self, part: LoraPart, weights: &Tensors) -> Result<BTreeSet<String>, Error> {
        let Some(before) = &mut self.before else { return Ok(weights.entries().keys().cloned().collect()) };
        let mut names = before.touched(part, weights)?;
        names.extend(self.after.touched(part, weights)?);
        Ok(names)
    }
}

/// The LoRA files of a model that is being opened.
pub(crate) struct Loras {
    all: Vec<Opened>,
    /// Whether files that turn the model into a generator are left out of every part.
    without_few_steps: bool,
}

struct Opened {
    file: LoraFile,
    option: LoraOption,
    /// Whether the file was merged into a UNet.
    used: bool,
}

impl Loras {
    pub(crate) fn none() -> Self {
        Self { all: Vec::new(), without_few_steps: false }
    }

    pub(crate) fn open(options: &OpenOptions) -> Result<Self, Error> {
        let open = |option: &LoraOption| {
            if !option.strength.is_finite() {
                return Err(Error::Setting {
                    setting: format!("a LoRA strength of {}", option.strength),
                    hint: "it must be a finite number".to_owned(),
                });
            }
            RecipeFile::of_lora(&option.path)?;
            Ok(Opened { file: LoraFile::read(&option.path)?, option: option.clone(), used: false })
        };
        let all = options.loras.iter().map(open).collect::<Result<_, Error>>()?;
        Ok(Self { all, without_few_steps: false })
    }

    /// The weights of a part with the updates of every file. The updates are added when the weights are read.
    pub(crate) fn merged(&mut self, part: LoraPart, weights: Tensors) -> Result<Tensors, Error> {
        match self.without_few_steps {
            true => self.merged_for_teacher(part, weights),
            false => self.merged_if(|_| true, part, weights),
        }
    }

    /// As [`Self::merged`], without the files that turn a model into a generator.
    pub(crate) fn merged_for_teacher(&mut self, part: LoraPart, weights: Tensors) -> Result<Tensors, Error> {
        self.merged_if(|option| option.recipe().is_none(), part, weights)
    }

    /// Leaves the files that turn the model into a generator out of every part. This is for a teacher that is opened
    /// alone.
    pub(crate) fn leave_few_steps_out(&mut self) {
        self.without_few_steps = true;
    }

    fn merged_if(
        &mut self,
        wanted: impl Fn(&LoraOption) -> bool,
        part: LoraPart,
        mut weights: Tensors,
    ) -> Result<Tensors, Error> {
        for Opened { file, option, used } in self.all.iter_mut().filter(|opened| wanted(&opened.option)) {
            let updates = file.fit(part, &weights)?;
            weights = weights.merged(&updates, option.strength)?;
            // Only a UNet counts, because many files have no updates for text encoders.
            *used |= part == LoraPart::UNet;
        }
        Ok(weights)
    }

    /// The names of a part's weights that any of the files changes.
    pub(crate) fn touched(&mut self, part: LoraPart, weights: &Tensors) -> Result<BTreeSet<String>, Error> {
        let mut names = BTreeSet::new();
        for Opened { file, .. } in &mut self.all {
            names.extend(file.fit(part, weights)?.updates.into_iter().map(|update| update.target));
        }
        Ok(names)
    }

    /// Reports how each file was used, one sentence each.
    ///
    /// # Errors
    ///
    /// When a file changed nothing.
    pub(crate) fn report(self) -> Result<Vec<String>, Error> {
        let sentence = |Opened { file, option, used }: &Opened| {
            if !used {
                let path = option.path.display();
                return Ok(format!("{path}: left out, since the teacher draws without it"));
            }
            Ok(format!("{}: {}, strength {}", option.path.display(), file.report()?, option.strength))
        };
        self.all.iter().map(sentence).collect()
    }
}
