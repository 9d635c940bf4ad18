//! Training: the optimisers, the losses and where their gradients go, runs that stop and go on, pairs, configuration.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod autoencoder;
mod bright_and_dark;
mod configuration;
mod losses;
mod optimizer;
mod pairs;
mod ranks;
mod resuming;
mod running;
mod tiny;
mod trainer;
mod watching;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dmd_train::run::{Observer, StepReport};

/// Fresh parameters are drawn from the backend's one global stream, which other tests of this process
/// would draw from in between: tests that need equal networks run one at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a run keeps the checkpoint of a stage.
pub(crate) fn checkpoint_folder(run: &Path, stage: &str) -> PathBuf {
    run.join("checkpoints").join(stage)
}

/// Stops after a number of steps.
pub(crate) struct StopAt(usize, usize);

impl Observer for StopAt {
    fn on_step(&mut self, _report: &StepReport<'_>) {
        self.1 += 1;
    }

    fn stopped(&self) -> bool {
        self.1 >= self.0
    }
}
