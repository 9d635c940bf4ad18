use std::path::PathBuf;

use burn::tensor::FloatDType;

use crate::Recipe;

/// Why a model cannot be opened, called or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Model files.
    #[error(transparent)]
    Weights(#[from] dmd_weights::Error),
    /// The UNet or the autoencoder.
    #[error(transparent)]
    Network(#[from] dmd_unet::Error),
    /// The tokenizer or the text encoder.
    #[error(transparent)]
    Text(#[from] dmd_clip::Error),
    /// The noise schedule or the number of steps.
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
    /// The parts of a model do not belong together.
    #[error("the parts of {folder:?} do not fit each other: {}", reasons.join("; "))]
    Misfit {
        /// The model folder.
        folder: PathBuf,
        /// One sentence for each pair of parts, with both numbers.
        reasons: Vec<String>,
    },
    /// A `one_step.json` that cannot be followed.
    #[error("{path:?} does not describe a generator of this model: {reason}")]
    Recipe {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The model was opened without the part that is asked for.
    #[error("this model has no {wanted}; {hint}")]
    Missing {
        /// What is asked for.
        wanted: &'static str,
        /// What can be done.
        hint: &'static str,
    },
    /// A teacher is asked for, and the model's UNet is itself the generator.
    #[error("this model has no teacher: its UNet is itself a generator of few steps ({steps}); {hint}")]
    FewSteps {
        /// How many, and by which recipe.
        steps: String,
        /// What can be done.
        hint: &'static str,
    },
    /// A class that the model does not have.
    #[error("this model has no class {name:?}; it has {}", known_classes(known))]
    Class {
        /// The name asked for.
        name: String,
        /// The model's.
        known: Vec<String>,
    },
    /// A part whose configuration names a network that is not one of those here.
    #[error("{class} is not a network that this program knows")]
    UnknownNetwork {
        /// The class that the configuration names.
        class: String,
    },
    /// Text features given to a model that is not conditioned on text.
    #[error("this model draws classes and takes no text features")]
    NoText,
    /// A setting that this model does not have, or not with this value.
    #[error("{setting} is not possible for this model; {hint}")]
    Setting {
        /// The setting with its value.
        setting: String,
        /// What would be accepted.
        hint: String,
    },
    /// Tiles too small to overlap.
    #[error("tiles of {side} latents are too small; the smallest possible are {min}")]
    Tile {
        /// Side asked for.
        side: usize,
        /// Smallest side.
        min: usize,
    },
    /// A float type that the device does not compute in.
    #[error(
        "this device does not compute in {dtype:?}; f32 works everywhere, and `dmd devices` lists the rest"
    )]
    Dtype {
        /// The type asked for.
        dtype: FloatDType,
    },
}

impl Error {
    pub(crate) const NO_GENERATOR: Self = Self::Missing {
        wanted: "one-step generator (folder unet_one_step)",
        hint: "ask for the teacher with a number of steps (--steps 30), name a generator (--generator FILE), or distil one (`dmd distill`)",
    };

    /// There is no teacher beside a UNet that is itself called by a recipe.
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

/// Names that a message lists before it only counts them.
const LISTED: usize = 12;

fn known_classes(known: &[String]) -> String {
    match known.len() {
        0 => "no classes: leave the name empty".to_owned(),
        n if n <= LISTED => known.join(", "),
        n => format!("{}, .. ({n} in all)", known[..LISTED].join(", ")),
    }
}
