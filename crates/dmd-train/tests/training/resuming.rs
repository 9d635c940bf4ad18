//! Runs that stop, are killed, and go on.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use dmd_data::Shapes;
use dmd_train::AutoencoderRecipe;
use dmd_train::config::{DistillConfig, FrozenPrecision, TrainedPrecision};
use dmd_train::fingerprint::Fingerprint;
use dmd_train::run::{Outcome, Stage, run};
use dmd_weights::{Fault, Precision, with_fault};

use crate::tiny::{Classes, tiny_autoencoder};
use crate::{StopAt, alone, checkpoint_folder};

/// What a run logged under a name, by step.
fn logged(run: &Path, name: &str) -> Vec<f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let line = |l: &str| serde_json::from_str::<serde_json::Value>(l).unwrap()[name].as_f64();
    text.lines().filter_map(line).collect()
}

/// Stopped and resumed, a run is bitwise the run that was never stopped.
#[test]
fn a_resumed_run_is_the_same_run() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let stage = || {
        AutoencoderRecipe::start(tiny_autoencoder(6), Arc::new(Shapes), 5, Fingerprint::new(), &device)
            .unwrap()
    };
    let pace = tiny_autoencoder(6).pace;
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let outcome = run(&mut stage(), &pace, &whole, &mut StopAt(100, 0)).unwrap();
    assert_eq!(outcome, Outcome::Finished);
    assert_eq!(run(&mut stage(), &pace, &parts, &mut StopAt(2, 0)).unwrap(), Outcome::Stopped);
    assert_eq!(run(&mut stage(), &pace, &parts, &mut StopAt(1, 0)).unwrap(), Outcome::Stopped);
    assert_eq!(run(&mut stage(), &pace, &parts, &mut StopAt(100, 0)).unwrap(), Outcome::Finished);
    for name in ["online.safetensors", "average.safetensors", "optimizer.safetensors"] {
        let read = |run: &Path| fs::read(checkpoint_folder(run, "autoencoder").join(name)).unwrap();
        assert!(read(&whole) == read(&parts), "{name} differs");
    }
    let losses = |run: &Path| logged(run, "reconstruction");
    assert_eq!(losses(&whole), losses(&parts));
    assert_eq!(losses(&whole).len(), 6);
    assert!(whole.join("grids/autoencoder-000006.png").is_file());
}

/// A run that is killed at any file operation of a checkpoint goes on from a whole one: the last or the one before.
#[test]
fn a_checkpoint_survives_every_kill() {
    let _alone = alone();
    let device = Device::flex();
    let pace = tiny_autoencoder(2).pace;
    let stage = || {
        AutoencoderRecipe::start(tiny_autoencoder(2), Arc::new(Shapes), 5, Fingerprint::new(), &device)
            .unwrap()
    };
    let mut killed_at = 0;
    loop {
        let folder = tempfile::tempdir().unwrap();
        run(&mut stage(), &pace, folder.path(), &mut StopAt(1, 0)).unwrap();
        // The second step's checkpoint replaces the first one's.
        let (_, operations) = with_fault(Fault::Killed(killed_at), || {
            run(&mut stage(), &pace, folder.path(), &mut StopAt(100, 0))
        });
        let mut rest = StopAt(100, 0);
        assert_eq!(run(&mut stage(), &pace, folder.path(), &mut rest).unwrap(), Outcome::Finished);
        assert!(rest.1 <= 1, "killed at operation {killed_at}: the first step is lost");
        killed_at += 1;
        if killed_at > operations {
            break;
        }
    }
    assert!(killed_at > 5, "{killed_at} file operations");
}

/// A distillation of classes, stopped and resumed, is bitwise the one that was never stopped: with every term, with
/// micro-batches side by side, and from other weights than the teacher's.
#[test]
fn a_resumed_distillation_is_the_same_run() {
    let _alone = alone();
    let classes = Classes::new();
    let plain = |_: &mut DistillConfig| {};
    let stopped_and_not = |name: &str, change: &dyn Fn(&mut DistillConfig)| {
        let run_to = |output: String, stops: &[usize]| {
            let mut config = classes.config(&output);
            change(&mut config);
            for stop in stops {
                let mut stage = classes.stage(&config);
                let outcome = run(&mut stage, &config.pace, &config.output, &mut StopAt(*stop, 0)).unwrap();
                assert_eq!(outcome == Outcome::Finished, *stop == 100);
            }
            // A session that finds everything done writes the generator.
            let mut stage = classes.stage(&config);
            run(&mut stage, &config.pace, &config.output, &mut StopAt(100, 0)).unwrap();
            stage.write(&config.output.join("unet_one_step"), Precision::Single).unwrap();
            config.output
        };
        let whole = run_to(format!("{name}-whole"), &[100]);
        let parts = run_to(format!("{name}-parts"), &[1, 2, 100]);
        for part in ["generator", "fake", "average", "generator_optimizer", "fake_optimizer"] {
            let file = format!("{part}.safetensors");
            let read = |run: &Path| fs::read(checkpoint_folder(run, "distillation").join(&file)).unwrap();
            assert!(read(&whole) == read(&parts), "{name}: {file} differs");
        }
        let weights =
            |run: &Path| fs::read(run.join("unet_one_step/diffusion_pytorch_model.safetensors")).unwrap();
        assert!(weights(&whole) == weights(&parts), "{name}: the generators differ");
        for (term, count) in [("regression", 5), ("matching", 4), ("adversarial", 4), ("critic", 5)] {
            let (whole, parts) = (logged(&whole, term), logged(&parts, term));
            assert_eq!((whole.len(), &whole), (count, &parts), "{name}: {term}");
        }
        whole
    };
    let first = stopped_and_not("classes", &plain);
    stopped_and_not("parallel", &|config| (config.generator.accumulate, config.generator.parallel) = (3, 2));
    let start = first.join("unet_one_step/diffusion_pytorch_model.safetensors");
    let further = stopped_and_not("start", &|config| config.generator.start = Some(start.clone()));
    assert_ne!(logged(&first, "regression")[0], logged(&further, "regression")[0], "the start is not used");
}

/// The teacher computes in its own float type, whatever the trained networks compute in.
#[test]
fn the_teacher_has_its_own_precision() {
    let classes = Classes::new();
    let matching = |teacher_precision| {
        let mut config = classes.config("precision");
        (config.precision, config.teacher_precision) = (TrainedPrecision::Brain, teacher_precision);
        let mut stage = classes.stage(&config);
        stage.step().unwrap(); // by regression alone
        let figures = stage.step().unwrap().read().unwrap_or_default();
        figures.into_iter().find(|(name, _)| *name == "matching").unwrap().1
    };
    let [single, half] = [FrozenPrecision::Single, FrozenPrecision::Brain].map(matching);
    assert!(single != half, "{single} and {half}");
    assert!((single / half - 1.0).abs() < 0.1, "{single} and {half}");
}
