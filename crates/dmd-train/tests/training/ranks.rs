//! Several ranks train, bit for bit, what one rank does; and they fail together.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use burn::tensor::{Device, Tensor};
use dmd_ablations::toy::Mlp;
use dmd_core::{Distiller, FewStep, GaussianMixture, Level, Noise};
use dmd_scheduler::{KarrasSchedule, TimeSampler};
use dmd_train::fingerprint::Fingerprint;
use dmd_train::run::{Observer, Outcome, Pace, Probe, Stage, StepReport, run};
use dmd_train::{
    Adversarial, Alone, Batch, Collective, Error, Figures, LearningRate, Threads, Trainer, TrainerConfig,
    Turn,
};

use crate::tiny::Toy;
use crate::{StopAt, alone, checkpoint_folder};

type ToyTrainer<'a> = Trainer<'a, Mlp, GaussianMixture, Mlp, KarrasSchedule>;

/// Micro-batches of an update, of all ranks together.
const MICRO_BATCHES: usize = 8;
const FAKE_UPDATES: usize = 2;

/// Networks with a critic, for a generator of one step or of four.
fn networks(steps: usize, seed: u64) -> Toy {
    let training = Device::flex().autodiff();
    Device::flex().seed(seed);
    let levels = [80.0, 10.0, 1.0, 0.1].map(Level::of_sigma)[..steps].to_vec();
    let distiller = Distiller::new(
        FewStep::new(Mlp::new(16, 0.5, &training), levels).with_noise_scale(80.0),
        GaussianMixture::new(&[(1.0, &[0.5, 0.0], 0.1), (1.0, &[-0.5, 0.2], 0.2)]),
        Mlp::new(16, 0.5, &training).with_critic(&training),
        KarrasSchedule::default(),
    );
    // Parameters are drawn when they are first used; another seed may be set by then.
    distiller.fork()
}

fn config(parallel: usize) -> TrainerConfig<'static> {
    let times = TimeSampler::Grid(KarrasSchedule::default().sigmas(1000));
    TrainerConfig {
        accumulate: MICRO_BATCHES,
        parallel,
        generator_rate: LearningRate::constant(1e-2, 0),
        fake_rate: LearningRate::constant(1e-2, 0),
        fake_updates: FAKE_UPDATES,
        ema_decay: 0.5,
        adversarial: Some(Adversarial { generator_weight: 0.1, critic_weight: 0.1, times: times.clone() }),
        ..TrainerConfig::new([3, 2, 1, 1], times.clone(), times)
    }
}

/// A trainer as one of several ranks. Rank 0 has the networks of seed 1, the others have others.
fn trainer(steps: usize, config: TrainerConfig<'static>, distiller: Toy) -> ToyTrainer<'static> {
    assert_eq!(distiller.generator.levels().len(), steps);
    Trainer::new(config, distiller, Noise::from_seed(6), &Device::flex())
}

/// A step on batches that are drawn for all ranks and made by one.
fn step(trainer: &mut ToyTrainer<'_>, made: &AtomicUsize) -> Result<Figures, Error> {
    let paired = trainer.distiller().generator.levels().len() == 1;
    trainer.step(|turn, noise| {
        let points: Vec<f32> = noise.uniform(-1.0..=1.0, 18).into_iter().map(|point| point as f32).collect();
        Ok(move || {
            made.fetch_add(1, Ordering::SeqCst);
            let tensor = |from: usize| {
                let rows = Tensor::<1>::from_floats(&points[from..from + 6], &Device::flex());
                rows.reshape([3, 2, 1, 1])
            };
            let batch = Batch::new(()).with_reals(tensor(0), ());
            Ok(match turn {
                Turn::Generator if paired => batch.with_pairs(tensor(6), tensor(12)),
                _ => batch,
            })
        })
    })
}

/// What each of some ranks makes of networks: rank 0 of those of seed 1, every other rank of its own.
fn each<T: Send>(ranks: Vec<Threads>, steps: usize, work: impl Fn(&Threads, Toy) -> T + Sync) -> Vec<T> {
    let work = &work;
    let with_networks = |rank: Threads| {
        let toy = networks(steps, 1 + rank.rank() as u64);
        (rank, toy)
    };
    let ranks: Vec<(Threads, Toy)> = ranks.into_iter().map(with_networks).collect();
    thread::scope(|scope| {
        let threads = ranks.into_iter().map(|(rank, toy)| scope.spawn(move || work(&rank, toy)));
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Everything that a trainer has become: figures of every step, files, the stream's position.
#[derive(PartialEq)]
struct Trained {
    figures: Vec<Vec<(&'static str, f64)>>,
    files: Vec<Vec<u8>>,
    position: u128,
}

fn files(folder: &Path) -> Vec<Vec<u8>> {
    ["generator", "fake", "average", "generator_optimizer", "fake_optimizer"]
        .map(|name| std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap())
        .to_vec()
}

fn trained(mut trainer: ToyTrainer<'_>, made: &AtomicUsize) -> Trained {
    let figures = (0..20).map(|_| step(&mut trainer, made).unwrap().read().unwrap()).collect();
    let folder = tempfile::tempdir().unwrap();
    trainer.save(folder.path()).unwrap();
    Trained { figures, files: files(folder.path()), position: trainer.noise().position() }
}

/// With critic and backward simulation, or with pairs; with micro-batches side by side within a rank or one after the
/// other: losses, weights, moments and the position of the stream are those of one rank.
#[test]
fn ranks_train_what_one_rank_does() {
    let _alone = alone();
    for generator_steps in [4, 1] {
        let made = AtomicUsize::new(0);
        let one = trained(trainer(generator_steps, config(1), networks(generator_steps, 1)), &made);
        let value = |name: &str| one.figures[19].iter().find(|(term, _)| *term == name).unwrap().1;
        let terms = ["matching", "adversarial", "gradient_norm", "fake", "critic", "fake_gradient_norm"];
        for term in terms.into_iter().chain((generator_steps == 1).then_some("regression")) {
            assert!(value(term) > 0.0, "{term}");
        }
        assert_eq!(made.into_inner(), 20 * MICRO_BATCHES * FAKE_UPDATES);
        for (size, parallel) in [(1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1)] {
            let made = AtomicUsize::new(0);
            let all = each(Threads::group(size), generator_steps, |ranks, toy| {
                trained(trainer(generator_steps, config(parallel), toy).with_ranks(ranks).unwrap(), &made)
            });
            for (rank, found) in all.iter().enumerate() {
                let which = format!("rank {rank} of {size}, {parallel} side by side");
                assert_eq!(found.figures, one.figures, "{which}");
                assert_eq!(found.position, one.position, "{which}");
                assert!(found.files == one.files, "{which}: other weights or moments");
            }
            // Every micro-batch is made once.
            assert_eq!(made.into_inner(), 20 * MICRO_BATCHES * FAKE_UPDATES);
        }
    }
}

/// A trainer as a stage. One rank fails, or has numbers that are not finite, in one step.
struct ToyStage<'a> {
    trainer: ToyTrainer<'a>,
    fails_at: Option<usize>,
    not_finite_at: Option<usize>,
}

impl<'a> ToyStage<'a> {
    fn new(trainer: ToyTrainer<'a>) -> Self {
        Self { trainer, fails_at: None, not_finite_at: None }
    }
}

impl Stage for ToyStage<'_> {
    fn name(&self) -> &'static str {
        "toy"
    }

    fn made_from(&self) -> Fingerprint {
        Fingerprint::new()
    }

    fn step(&mut self) -> Result<Figures, Error> {
        let now = Some(self.trainer.steps() + 1);
        let (fails, not_finite) = (self.fails_at == now, self.not_finite_at == now);
        if !fails && !not_finite {
            return step(&mut self.trainer, &AtomicUsize::new(0));
        }
        self.trainer.step(|turn, noise| {
            noise.uniform(-1.0..=1.0, 18);
            Ok(move || {
                if fails {
                    return Err(Error::Training("a picture is broken".to_owned()));
                }
                let rows = |value: f32| Tensor::full([3, 2, 1, 1], value, &Device::flex());
                let batch = Batch::new(()).with_reals(rows(f32::NAN), ());
                Ok(if turn == Turn::Generator { batch.with_pairs(rows(0.5), rows(0.5)) } else { batch })
            })
        })
    }

    fn save(&self, folder: &Path) -> Result<(), Error> {
        self.trainer.save(folder)
    }

    fn load(&mut self, folder: &Path, steps: usize) -> Result<(), Error> {
        self.trainer.load(folder, steps)
    }

    fn ranks(&self) -> &dyn Collective {
        self.trainer.ranks()
    }

    fn noise(&mut self) -> &mut Noise {
        self.trainer.noise()
    }

    fn probe(&self, _stopped: &dyn Fn() -> bool) -> Result<Option<Probe>, Error> {
        assert_eq!(self.ranks().rank(), 0, "one rank draws pictures");
        Ok(Some(Probe { figures: vec![("probe", 1.0)], ..Probe::default() }))
    }
}

/// Remembers the figures that it is shown.
struct Seen(StopAt, Vec<Vec<(&'static str, f64)>>);

impl Observer for Seen {
    fn on_step(&mut self, report: &StepReport<'_>) {
        self.0.on_step(report);
        self.1.push(report.losses.to_vec());
    }

    fn stopped(&self) -> bool {
        self.0.stopped()
    }
}

const PACE: Pace =
    Pace { steps: 20, log_every: 1, grid_every: 4, checkpoint_every: 3, keep: 1, tensorboard: false };

/// What `metrics.jsonl` has, but for the clock.
fn metrics(folder: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let mut lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        line.as_object_mut().unwrap().retain(|key, _| !["seconds", "memory_gib"].contains(&key.as_str()));
    }
    lines
}

/// A run goes on with another number of ranks. A request to stop reaches all ranks, whichever is asked, and the first rank
/// alone writes.
#[test]
fn a_run_goes_on_with_other_ranks() {
    let _alone = alone();
    let (whole, shared) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut stage = ToyStage::new(trainer(4, config(1), networks(4, 1)));
    run(&mut stage, &PACE, whole.path(), &mut StopAt(100, 0)).unwrap();
    let mut done = 0;
    for (size, steps) in [(4, 7), (1, 4), (2, 3), (8, 100)] {
        let sessions = each(Threads::group(size), 4, |ranks, toy| {
            let trainer = trainer(4, config(1), toy).with_ranks(ranks).unwrap();
            let asked = if ranks.rank() == size - 1 { steps } else { 100 };
            let mut seen = Seen(StopAt(asked, 0), Vec::new());
            let outcome = run(&mut ToyStage::new(trainer), &PACE, shared.path(), &mut seen).unwrap();
            (outcome, seen.1)
        });
        done += sessions[0].1.len();
        let expected = if done == 20 { Outcome::Finished } else { Outcome::Stopped };
        for (outcome, seen) in &sessions {
            assert_eq!(*outcome, expected);
            assert_eq!(*seen, sessions[0].1, "ranks see different figures");
        }
        assert!(expected == Outcome::Finished || sessions[0].1.len() == steps, "{size} ranks stop late");
    }
    assert_eq!(done, 20);
    assert_eq!(metrics(shared.path()), metrics(whole.path()));
    let [of_shared, of_whole] = [&shared, &whole].map(|folder| checkpoint_folder(folder.path(), "toy"));
    assert!(files(&of_shared) == files(&of_whole), "other weights or moments");
    let noise = |folder: &Path| -> serde_json::Value {
        dmd_weights::read_json::<serde_json::Value>(&folder.join("state.json")).unwrap()["noise"].clone()
    };
    assert_eq!(noise(&of_shared), noise(&of_whole));
}

/// What each rank of a group says when one is changed before the run.
fn errors(
    size: usize,
    change: impl Fn(usize, &mut ToyStage<'_>) + Sync,
    pace: impl Fn(usize) -> Pace + Sync,
) -> Vec<Error> {
    let folder = tempfile::tempdir().unwrap();
    each(Threads::group(size), 1, |ranks, toy| {
        let mut stage = ToyStage::new(trainer(1, config(1), toy).with_ranks(ranks).unwrap());
        change(ranks.rank(), &mut stage);
        run(&mut stage, &pace(ranks.rank()), folder.path(), &mut StopAt(100, 0)).unwrap_err()
    })
}

/// A loss that is not finite on one rank stops all with one error, before a checkpoint could record it, however seldom
/// figures are logged; an error of one rank is told to all.
#[test]
fn ranks_fail_together() {
    let _alone = alone();
    let seldom = |_| Pace { log_every: 100, ..PACE };
    let found = errors(4, |rank, stage| stage.not_finite_at = (rank == 2).then_some(5), seldom);
    for error in &found {
        let Error::Diverged { step: 5, term, value, saved: 3, .. } = error else { panic!("{error}") };
        assert!(*term == "critic" && value.is_nan(), "{error}");
        assert_eq!(error.to_string(), found[0].to_string());
    }
    let found = errors(4, |rank, stage| stage.fails_at = (rank == 2).then_some(5), seldom);
    for (rank, error) in found.iter().enumerate() {
        let sentence = error.to_string();
        match rank {
            2 => assert!(sentence.contains("a picture is broken"), "{sentence}"),
            _ => assert!(matches!(error, Error::Rank { rank: 2, .. }), "{sentence}"),
        }
    }
    let pace = |rank| if rank == 1 { Pace { checkpoint_every: 4, ..PACE } } else { PACE };
    for error in errors(2, |_, _| {}, pace) {
        assert!(matches!(error, Error::Rank { rank: 1, .. }), "{error}");
    }
}

/// Ranks that cannot train together do not begin.
#[test]
fn ranks_that_do_not_fit_are_refused() {
    let _alone = alone();
    let refused = |size: usize, change: fn(usize, &mut TrainerConfig<'_>)| {
        each(Threads::group(size), 1, |ranks, toy| {
            let mut config = config(1);
            change(ranks.rank(), &mut config);
            trainer(1, config, toy).with_ranks(ranks).unwrap_err()
        })
    };
    for error in refused(3, |_, _| {}) {
        let sentence = error.to_string();
        assert!(sentence.contains("3 ranks") && sentence.contains("8 micro-batches"), "{sentence}");
    }
    let changes: [fn(usize, &mut TrainerConfig<'_>); 4] = [
        |rank, config| config.fake_updates += usize::from(rank == 1),
        |rank, config| config.accumulate *= 1 + usize::from(rank == 1),
        |rank, config| config.generator_rate = LearningRate::constant(1e-2 / (1 + rank) as f64, 0),
        |rank, config| config.adversarial = config.adversarial.take().filter(|_| rank != 1),
    ];
    for change in changes {
        for error in refused(2, change) {
            assert!(matches!(error, Error::Rank { rank: 1, .. }), "{error}");
        }
    }
    // One process by itself is a rank, too.
    assert!(trainer(1, config(1), networks(1, 1)).with_ranks(&Alone).is_ok());
}
