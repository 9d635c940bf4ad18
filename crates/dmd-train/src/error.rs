use std::path::{Path, PathBuf};

/// What can go wrong in a training run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A run's configuration file cannot be read.
    #[error("cannot read the configuration {path:?}")]
    ReadConfig {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A run's configuration is not valid TOML, or has an unknown key.
    #[error("configuration {path:?}: {reason}")]
    ParseConfig {
        /// The file.
        path: PathBuf,
        /// What the parser said, with the line and the key.
        reason: String,
    },
    /// An option has a value that makes no sense.
    #[error("configuration: {key} = {value}, but it must be {must}")]
    Option {
        /// The option, with its section.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would be accepted.
        must: &'static str,
    },
    /// A loss or gradient is not a finite number.
    #[error(
        "{term} is {value} at step {step}: the run diverged and was stopped; {}, lower the learning rate and resume",
        last_checkpoint(checkpoint.as_deref(), *saved)
    )]
    Diverged {
        /// The optimiser step.
        step: usize,
        /// Which quantity.
        term: &'static str,
        /// Its value.
        value: f64,
        /// The last whole checkpoint, if there is one.
        checkpoint: Option<PathBuf>,
        /// The step it was written after.
        saved: usize,
    },
    /// A checkpoint does not belong to this configuration, or is damaged.
    #[error("checkpoint {path:?} cannot be resumed: {reason}")]
    Checkpoint {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Earlier work was made from other settings than the present ones.
    #[error(
        "{path:?} was made with {name} = {was}, which is now {is}: set it back, or choose another output folder"
    )]
    Changed {
        /// The earlier work.
        path: PathBuf,
        /// What differs.
        name: String,
        /// Its value then.
        was: String,
        /// Its value now.
        is: String,
    },
    /// A trainer cannot use its settings with the batches and networks that it was given.
    #[error("this training cannot go on: {0}")]
    Training(String),
    /// One of several ranks cannot go on with the others.
    #[error("rank {rank} {reason}")]
    Rank {
        /// The rank.
        rank: usize,
        /// What it did, as the rest of a sentence.
        reason: String,
    },
    /// A setting cannot be recorded.
    #[error("cannot record the setting {name}: {reason}")]
    Fingerprint {
        /// The setting.
        name: String,
        /// Why.
        reason: String,
    },
    /// The data set.
    #[error(transparent)]
    Data(#[from] dmd_data::Error),
    /// The model that is distilled, or that was trained.
    #[error(transparent)]
    Model(#[from] dmd_model::Error),
    /// A measure of pictures.
    #[error(transparent)]
    Measure(#[from] dmd_eval::Error),
    /// Model files.
    #[error(transparent)]
    Weights(#[from] dmd_weights::Error),
    /// The UNet or the autoencoder.
    #[error(transparent)]
    Network(#[from] dmd_unet::Error),
    /// The text encoder.
    #[error(transparent)]
    Text(#[from] dmd_clip::Error),
    /// The noise schedule.
    #[error(transparent)]
    Schedule(#[from] dmd_scheduler::Error),
}

fn last_checkpoint(path: Option<&Path>, step: usize) -> String {
    match path {
        Some(path) => format!("the checkpoint of step {step}, {path:?}, is whole"),
        None => "there is no checkpoint yet".to_owned(),
    }
}
