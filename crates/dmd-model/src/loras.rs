//! LoRA files that are merged into a model's weights when they are read.

use std::collections::BTreeSet;

use dmd_weights::{LoraFile, LoraPart, Tensors};

use crate::recipe::Called;
use crate::{Error, OpenOptions, RecipeFile, published};

/// A LoRA file, and how strongly its updates are added.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraOption {
    /// The file.
    pub path: std::path::PathBuf,
    /// What the updates are multiplied by, besides their own factor; 1 as trained, 0 without effect, below 0 the opposite.
    pub strength: f64,
}

impl LoraOption {
    /// Whether the file makes a generator of few steps of a model: it says how that is called, or its name does.
    pub fn makes_few_steps(&self) -> bool {
        self.recipe().is_some()
    }

    /// How the generator is called that the file makes of a model: what its metadata says, otherwise the published recipe
    /// that its name stands for.
    pub(crate) fn recipe(&self) -> Option<Called> {
        if self.strength == 0.0 {
            return None;
        }
        // A text that cannot be read is refused when the file is opened.
        let written = RecipeFile::of_lora(&self.path).ok().flatten();
        let written = written.map(|written| Called::Written(written, self.path.clone()));
        written.or_else(|| published::guess(&self.path).map(Called::Named))
    }
}

/// LoRA files that take the place of others in an opened model.
pub(crate) struct Change {
    /// `None` where their files are gone: then every weight is taken for touched.
    pub(crate) before: Option<Loras>,
    pub(crate) after: Loras,
}

impl Change {
    /// The names of the weights of a part that are not what they were.
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
    /// Whether files that make a generator of the model are left out of every part.
    without_few_steps: bool,
}

struct Opened {
    file: LoraFile,
    option: LoraOption,
    /// Whether a part was fitted to it.
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

    /// The weights of a part with every file's updates added, when they are read.
    pub(crate) fn merged(&mut self, part: LoraPart, weights: Tensors) -> Result<Tensors, Error> {
        match self.without_few_steps {
            true => self.merged_for_teacher(part, weights),
            false => self.merged_if(|_| true, part, weights),
        }
    }

    /// [`Self::merged`] without the files that make a generator of a model.
    pub(crate) fn merged_for_teacher(&mut self, part: LoraPart, weights: Tensors) -> Result<Tensors, Error> {
        self.merged_if(|option| option.recipe().is_none(), part, weights)
    }

    /// Leaves the files that make a generator of the model out of every part: of a teacher that is opened alone.
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
            // A text encoder alone says nothing: many files have no updates of it.
            *used |= part == LoraPart::UNet;
        }
        Ok(weights)
    }

    /// The names of the weights of a part that a file touches.
    pub(crate) fn touched(&mut self, part: LoraPart, weights: &Tensors) -> Result<BTreeSet<String>, Error> {
        let mut names = BTreeSet::new();
        for Opened { file, .. } in &mut self.all {
            names.extend(file.fit(part, weights)?.updates.into_iter().map(|update| update.target));
        }
        Ok(names)
    }

    /// What became of each file, a sentence each.
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
