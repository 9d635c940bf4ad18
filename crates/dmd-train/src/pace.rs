use serde::{Deserialize, Serialize};

/// How long a stage runs and how often it reports.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    /// Optimiser steps in all.
    pub steps: usize,
    /// Steps from one line in `metrics.jsonl` to the next.
    #[serde(default = "one")]
    pub log_every: usize,
    /// Steps from one grid of pictures to the next.
    #[serde(default = "five_hundred")]
    pub grid_every: usize,
    /// Steps from one checkpoint to the next.
    #[serde(default = "five_hundred")]
    pub checkpoint_every: usize,
    /// Number of checkpoints that are kept, including the newest. Older ones are named by their step.
    #[serde(default = "one")]
    pub keep: usize,
    /// Also write TensorBoard's event files, below `tensorboard/`.
    #[serde(default)]
    pub tensorboard: bool,
}

fn one() -> usize {
    1
}

fn five_hundred() -> usize {
    500
}
