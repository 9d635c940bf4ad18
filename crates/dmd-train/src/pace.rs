use serde::{Deserialize, Serialize};

/// How long a stage runs and how often it reports.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    /// Optimiser steps in all.
    pub steps: usize,
    /// A line in `metrics.jsonl` every so many steps.
    #[serde(default = "one")]
    pub log_every: usize,
    /// A grid of pictures every so many steps.
    #[serde(default = "five_hundred")]
    pub grid_every: usize,
    /// A checkpoint every so many steps.
    #[serde(default = "five_hundred")]
    pub checkpoint_every: usize,
    /// Checkpoints that are kept, the newest among them; older ones are named by their step.
    #[serde(default = "one")]
    pub keep: usize,
    /// Write TensorBoard's event files, below `tensorboard/`, beside `metrics.jsonl`.
    #[serde(default)]
    pub tensorboard: bool,
}

fn one() -> usize {
    1
}

fn five_hundred() -> usize {
    500
}
