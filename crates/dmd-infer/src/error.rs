use std::path::PathBuf;

use burn::tensor::FloatDType;

/// Why a picture cannot be drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Model files.
    #[error(transparent)]
    Weights(#[from] dmd_weights::Error),
    /// The UNet or the autoencoder.
    #[error(transparent)]
    Network(#[from] dmd_unet::Error),
    /// The prompt or the text encoder.
    #[error(transparent)]
    Text(#[from] dmd_clip::Error),
    /// The noise schedule or the number of steps.
    #[error(transparent)]
    Schedule(#[from] dmd_scheduler::Error),
    /// The folder is no model.
    #[error("{folder:?} is no model folder: it has no {missing}")]
    NoModel {
        /// The folder.
        folder: PathBuf,
        /// What every model folder has.
        missing: &'static str,
    },
    /// One step was asked of a model without a one-step generator, or several without a teacher.
    #[error("this model has no {wanted}; {hint}")]
    Missing {
        /// What the request needs.
        wanted: &'static str,
        /// What can be done.
        hint: &'static str,
    },
    /// A class that the model does not have.
    #[error("{name:?} is none of this model's classes: {}", known.join(", "))]
    Class {
        /// The name asked for.
        name: String,
        /// The model's.
        known: Vec<String>,
    },
    /// A request without a prompt, or a blank one.
    #[error("the prompt is empty; say what to draw")]
    EmptyPrompt,
    /// Not one seed per prompt.
    #[error("{prompts} prompts but {seeds} seeds; give one seed per picture")]
    Seeds {
        /// Number of prompts.
        prompts: usize,
        /// Number of seeds.
        seeds: usize,
    },
    /// A size this model cannot make.
    #[error(
        "pictures of {width}×{height} are not possible: both must be multiples of {multiple}, at least {multiple} and at most {max}"
    )]
    Size {
        /// Width asked for.
        width: usize,
        /// Height asked for.
        height: usize,
        /// What both must be divisible by.
        multiple: usize,
        /// The largest possible.
        max: usize,
    },
    /// The request contradicts how the one-step generator was trained.
    #[error(
        "{setting} does not go with this distilled generator: it wants t = {}, unit noise and no guidance (its teacher was guided); leave it out, or ask for the teacher's steps",
        .timesteps.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    OneStepSetting {
        /// What contradicts.
        setting: String,
        /// The timesteps the generator was distilled for.
        timesteps: Vec<usize>,
    },
    /// A setting that cannot be.
    #[error("{name} {value} is not possible; it must be {wanted}")]
    Setting {
        /// Which one.
        name: &'static str,
        /// Its value.
        value: String,
        /// What would be accepted.
        wanted: String,
    },
    /// Tiles too small to overlap.
    #[error("tiles of {side} latents are too small; the least is {min}")]
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
    /// A guidance scale without sense.
    #[error("guidance {scale} is not a number of at least 1")]
    Guidance {
        /// The scale asked for.
        scale: f64,
    },
    /// A stage computed something that is not a number.
    #[error("the {stage} gave numbers that are not finite; this device or precision cannot run this model")]
    NotFinite {
        /// The stage.
        stage: &'static str,
    },
    /// The request was cancelled between two steps.
    #[error("cancelled after {steps} steps")]
    Cancelled {
        /// Sampling steps done.
        steps: usize,
    },
    /// A reference file that does not hold what a comparison needs.
    #[error("{path:?} is no reference for this model: {reason}")]
    Reference {
        /// The file.
        path: PathBuf,
        /// What is missing or does not fit.
        reason: String,
    },
    /// The PNG encoder failed.
    #[error("cannot encode the picture: {reason}")]
    Encode {
        /// Why.
        reason: String,
    },
}
