//! The loop around every training.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use dmd_core::Noise;
use dmd_train::fingerprint::Fingerprint;
use dmd_train::run::{Pace, run};
use dmd_train::{Error, Figures};

use crate::{StopAt, checkpoint_folder};

#[test]
fn divergence_stops_the_run() {
    struct Diverging {
        steps: usize,
        noise: Noise,
    }
    impl dmd_train::run::Stage for Diverging {
        fn name(&self) -> &'static str {
            "diverging"
        }
        fn made_from(&self) -> Fingerprint {
            Fingerprint::new()
        }
        fn step(&mut self) -> Result<Figures, Error> {
            self.steps += 1;
            let mut figures = Figures::new();
            let value = if self.steps <= 2 { 1.0 } else { f32::NAN };
            figures.loss("loss", Tensor::from_floats([value], &Device::flex()));
            Ok(figures)
        }
        fn save(&self, _folder: &Path) -> Result<(), Error> {
            Ok(())
        }
        fn load(&mut self, _folder: &Path, _steps: usize) -> Result<(), Error> {
            Ok(())
        }
        fn noise(&mut self) -> &mut Noise {
            &mut self.noise
        }
        fn probe(&self, _stopped: &dyn Fn() -> bool) -> Result<Option<dmd_train::run::Probe>, Error> {
            Ok(None)
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let pace =
        Pace { steps: 9, log_every: 1, grid_every: 100, checkpoint_every: 1, keep: 1, tensorboard: false };
    let error = run(
        &mut Diverging { steps: 0, noise: Noise::from_seed(0) },
        &pace,
        folder.path(),
        &mut StopAt(100, 0),
    )
    .unwrap_err();
    assert!(matches!(error, Error::Diverged { step: 3, term: "loss", .. }), "{error}");
    let state: serde_json::Value =
        dmd_weights::read_json(&checkpoint_folder(folder.path(), "diverging").join("state.json")).unwrap();
    assert_eq!(state["step"], 2);
}
