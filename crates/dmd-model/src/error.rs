use std::path::PathBuf;

use burn::tensor::FloatDType;

use crate::Recipe;

/// Errors of opening, calling and writing a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of model files.
    #[error(transparent)]
    Weights(#[from] dmd_weights::Error),
    /// An error of the UNet or the autoencoder.
    #[error(transparent)]
    Network(#[from] dmd_unet::Error),
    /// An error of the tokenizer or the text encoder.
    #[error(transparent)]
    Text(#[from] dmd_clip::Error),
    /// An error of the noise schedule or the number of steps.
    #[error(transparent)]
    Schedule(#[from] dmd_scheduler::Error),
    /// The folder is not a model folder.
    #[error("{folder:?} is not a model folder: {reason}")]
    NoModel {
        /// The folder.
        folder: PathBuf,
        /// What is missing, and what to do.
        reason: String,
    },
    /// The parts of a model do not fit each other.
    #[error("the parts of {folder:?} do not fit each other: {}", reasons.join("; "))]
    Misfit {
        /// The model folder.
        folder: PathBuf,
        /// One sentence for each pair of parts, with both numbers.
        reasons: Vec<String>,
    },
    /// A recipe file, or the recipe in a LoRA file, is not valid for this model.
    #[error("{path:?} does not describe a generator of this model: {reason}")]
    Recipe {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The model was opened without the requested part.
    #[error("this model has no {wanted}; {hint}")]
    Missing {
        /// The requested part.
        wanted: &'static str,
        /// What the user can do.
        hint: &'static str,
    },
    /// A teacher was requested, but the model's UNet is itself the generator.
    #[error("this model has no teacher: its UNet is itself a generator of few steps ({steps}); {hint}")]
    FewSteps {
        /// The number of steps, and the recipe.
        steps: String,
        /// What the user can do.
        hint: &'static str,
    },
    /// The model does not have the requested class.
    #[error("this model has no class {name:?}; it has {}", known_classes(known))]
    Class {
        /// The requested name.
        name: String,
        /// The names of the model's classes.
        known: Vec<String>,
    },
    /// The configuration of a part names a network that is not supported.
    #[error("{class} is not a network that this program knows")]
    UnknownNetwork {
        /// The class that the configuration names.
        class: String,
    },
    /// Text features were given to a model that is not conditioned on text.
    #[error("this model draws classes and takes no text features")]
    NoText,
    /// The model does not have this setting, or does not accept this value.
    #[error("{setting} is not possible for this model; {hint}")]
    Setting {
        /// The setting with its value.
        setting: String,
        /// What would be accepted.
        hint: String,
    },
    /// The tiles are too small to overlap.
    #[error("tiles of {side} latents are too small; the smallest possible are {min}")]
    Tile {
        /// The requested side.
        side: usize,
        /// The smallest possible side.
        min: usize,
    },
    /// The device does not support a float type.
    #[error(
        "this device does not compute in {dtype:?}; f32 works everywhere, and `dmd devices` lists the rest"
    )]
    Dtype {
        /// The requested type.
        dtype: FloatDType,
    },
}

impl Error {
    pub(crate) const NO_GENERATOR: Self = Self::Missing {
        wanted: "one-step generator (folder unet_one_step)",
        hint: "ask for the teacher with a number of steps (--steps 30), name a generator (--generator FILE), or distil one (`dmd distill`)",
    };

    /// The error that there is no teacher, because the UNet is itself a generator with this recipe.
    pub(crate) fn few_steps(recipe: &Recipe) -> Self {
        let name = recipe.name.as_ref().map(|name| format!(", by the recipe {name}")).unwrap_or_default();
        let steps = match recipe.possible_steps() {
            Some(steps) => format!("{} to {}", steps.start(), steps.end()),
            None => recipe.steps().to_string(),
        };
        let hint = match recipe.told_guidance {
            Some(_) => "ask for as many",
            None => "ask for as many, or say --recipe none to draw with it as with any other model",
        };
        Self::FewSteps { steps: format!("{steps}{name}"), hint }
    }

    pub(crate) const NO_TEACHER: Self =
        Self::Missing { wanted: "teacher (folder unet)", hint: "ask for the distilled generator instead" };
}

/// Maximum number of names that a message lists. Of further names it gives only the number.
const LISTED: usize = 12;

fn known_classes(known: &[String]) -> String {
    match known.len() {
        0 => "no classes: leave the name empty".to_owned(),
        n if n <= LISTED => known.join(", "),
        n => format!("{}, .. ({n} in all)", known[..LISTED].join(", ")),
    }
}
