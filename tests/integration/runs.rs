//! What a run leaves behind: fingerprints of its data, checkpoints that survive a kill, pairs.

use std::fs;
use std::path::Path;

use dmd_core::Noise;
use dmd_data::shapes::{Scene, Split};
use dmd_data::{Dataset, ImageFolder, Prompts, save};
use dmd_train::fingerprint::Fingerprint;
use dmd_train::run::{Observer, Outcome, Pace, Probe, Stage, StepReport, run};
use dmd_train::{Error, Figures};
use dmd_weights::{Fault, with_fault};

/// Data that were moved are the same data.
#[test]
fn fingerprints_do_not_depend_on_the_place() {
    let print = || {
        let folder = tempfile::tempdir().unwrap();
        let scene = Scene::draw(Split::Train, &mut Noise::from_seed(1)).render();
        save(&scene, &folder.path().join("a.png")).unwrap();
        let line = "{\"file_name\": \"a.png\", \"text\": \"one\"}\n";
        fs::write(folder.path().join("metadata.jsonl"), line).unwrap();
        let prompts = folder.path().join("prompts.txt");
        fs::write(&prompts, "one\ntwo\n").unwrap();
        let pictures = ImageFolder::open(folder.path(), 32).unwrap();
        [pictures.fingerprint(), Prompts::open(&prompts).unwrap().fingerprint()]
    };
    assert_eq!(print(), print());
}

/// A stage that counts its steps and learns nothing.
#[derive(Debug)]
struct Counting {
    steps: usize,
    noise: Noise,
}

impl Counting {
    fn new() -> Self {
        Self { steps: 0, noise: Noise::from_seed(0) }
    }
}

impl Stage for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn made_from(&self) -> Fingerprint {
        Fingerprint::new()
    }

    fn step(&mut self) -> Result<Figures, Error> {
        self.steps += 1;
        Ok(Figures::new())
    }

    fn save(&self, folder: &Path) -> Result<(), Error> {
        Ok(dmd_weights::write_json(&folder.join("count.json"), &self.steps)?)
    }

    fn load(&mut self, folder: &Path, steps: usize) -> Result<(), Error> {
        self.steps = dmd_weights::read_json(&folder.join("count.json"))?;
        assert_eq!(self.steps, steps);
        Ok(())
    }

    fn noise(&mut self) -> &mut Noise {
        &mut self.noise
    }

    fn probe(&self, _stopped: &dyn Fn() -> bool) -> Result<Option<Probe>, Error> {
        Ok(Some(Probe::default()))
    }
}

/// Counts the steps of a session, and stops after some.
struct StopAfter(usize, usize);

impl Observer for StopAfter {
    fn on_step(&mut self, _report: &StepReport<'_>) {
        self.1 += 1;
    }

    fn stopped(&self) -> bool {
        self.1 >= self.0
    }
}

/// Killed at any file operation, a run that keeps older checkpoints goes on from a whole one, and leaves the newest
/// ones and nothing else.
#[test]
fn kept_checkpoints_survive_every_kill() {
    let pace =
        Pace { steps: 4, log_every: 100, grid_every: 100, checkpoint_every: 1, keep: 2, tensorboard: false };
    let mut killed_at = 0;
    loop {
        let folder = tempfile::tempdir().unwrap();
        let go_on = |steps| {
            let mut observer = StopAfter(steps, 0);
            (run(&mut Counting::new(), &pace, folder.path(), &mut observer), observer.1)
        };
        go_on(2).0.unwrap();
        // The third step's checkpoint sets the second one's aside and removes the first one's.
        let ((_, made), operations) = with_fault(Fault::Killed(killed_at), || go_on(1));
        let (outcome, rest) = go_on(100);
        assert_eq!(outcome.unwrap(), Outcome::Finished);
        assert!(made == 1 && (1..=2).contains(&rest), "killed at operation {killed_at}: {rest} steps again");
        let entries = fs::read_dir(folder.path().join("checkpoints")).unwrap();
        let mut kept: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        kept.sort();
        assert_eq!(kept, ["counting", "counting-00000003"], "killed at operation {killed_at}");
        killed_at += 1;
        if killed_at > operations {
            break;
        }
    }
    assert!(killed_at > 10, "{killed_at} file operations");
}
