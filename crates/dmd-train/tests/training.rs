//! Optimiser, checkpoints, data, configuration, and where gradients go.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use dmd_ablations::toy::Mlp;
use dmd_core::{
    Adversary, Diffusion, Distiller, Draw, FewStep, GaussianMixture, Level, Noise, Reals, SquaredError,
    Targets, Terms,
};
use dmd_data::{Dataset, Shapes};
use dmd_model::pixels::from_rgb8;
use dmd_scheduler::{KarrasSchedule, TimeSampler};
use dmd_train::checkpoint::checkpoint_folder;
use dmd_train::config::{AutoencoderSection, DistillConfig, TeacherConfig};
use dmd_train::fingerprint::Fingerprint;
use dmd_train::run::{Observer, Outcome, Pace, StepReport, run};
use dmd_train::{AdamW, AdamWConfig, AutoencoderRecipe, Ema, Error, Figures, Gradients};
use dmd_weights::{Fault, with_fault};

#[derive(Module, Debug)]
struct Point {
    p: Param<Tensor<1>>,
}

impl Point {
    fn new(values: [f32; 3]) -> Self {
        Self { p: Param::from_tensor(Tensor::from_floats(values, &Device::flex().autodiff())) }
    }

    /// Gradients that are exactly `gradient`.
    fn gradients(&self, gradient: [f32; 3]) -> Gradients {
        let gradient = Tensor::<1>::from_floats(gradient, &Device::flex());
        Gradients::of((self.p.val() * gradient).sum(), self)
    }

    fn values(&self) -> Vec<f32> {
        self.p.val().without_autodiff().into_data().iter::<f32>().collect()
    }
}

/// Three steps of torch.optim.AdamW 2.15 (lr 0.1, decay 0.01) after clip_grad_norm_(.., 10): the
/// norms before clipping, and the parameters.
const TORCH: [([f32; 3], f64, [f32; 3]); 3] = [
    ([0.5, -1.0, 2.0], 2.291_287_9, [0.899, -1.898, 0.3995]),
    ([30.0, -40.0, 0.0], 50.0, [0.818_382_4, -1.813_955_5, 0.332_094_7]),
    ([0.0, 0.1, -0.2], 0.223_606_8, [0.755_941_3, -1.749_439_7, 0.286_587_2]),
];

#[test]
fn adamw_is_torchs() {
    let mut point = Point::new([1.0, -2.0, 0.5]);
    let mut adam = AdamW::new(AdamWConfig::default());
    for (gradient, norm, expected) in TORCH {
        let grads = point.gradients(gradient);
        let (moved, found) = adam.step(0.1, point, grads);
        point = moved;
        let found = f64::from(found.into_scalar::<f32>());
        assert!((found - norm).abs() < 1e-5 * norm, "norm {found}, torch {norm}");
        for (found, expected) in point.values().iter().zip(expected) {
            assert!((found - expected).abs() < 2e-6, "{found}, torch {expected}");
        }
    }
}

#[test]
fn adamw_resumes_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adam.safetensors");
    let step = |adam: &mut AdamW, point: Point, g| {
        let grads = point.gradients(g);
        adam.step(0.1, point, grads).0
    };
    let mut adam = AdamW::new(AdamWConfig::default());
    let point = step(&mut adam, Point::new([1.0, 2.0, 3.0]), [0.1, 0.2, 0.3]);
    adam.save(&path).unwrap();
    let mut resumed = AdamW::load(AdamWConfig::default(), &path, &Device::flex()).unwrap();
    let same = Point::new(point.values().try_into().unwrap());
    let a = step(&mut adam, point, [1.0, -1.0, 0.5]).values();
    let b = step(&mut resumed, same, [1.0, -1.0, 0.5]).values();
    assert_eq!(a, b);
    fs::write(&path, "garbage").unwrap();
    assert!(AdamW::load(AdamWConfig::default(), &path, &Device::flex()).is_err());
}

/// A gradient that is not finite changes nothing; the caller sees the norm.
#[test]
fn adamw_refuses_infinite_gradients() {
    let point = Point::new([1.0, 2.0, 3.0]);
    let grads = point.gradients([f32::INFINITY, 0.0, 0.0]);
    let mut adam = AdamW::new(AdamWConfig::default());
    let (point, norm) = adam.step(0.1, point, grads);
    let refused = |adam: &AdamW| adam.refused().unwrap().into_scalar::<f32>();
    assert!(!norm.into_scalar::<f32>().is_finite() && refused(&adam) == 1.0);
    assert_eq!(point.values(), [1.0, 2.0, 3.0]);
    // A later step does not hide it.
    let grads = point.gradients([0.1; 3]);
    let (_, norm) = adam.step(0.1, point, grads);
    assert!(norm.into_scalar::<f32>().is_finite() && refused(&adam) == 1.0);
}

#[test]
fn average_follows_the_parameters() {
    let mut average = Ema::new(&Point::new([0.0; 3]), 0.75);
    let online = Point::new([4.0, 8.0, -4.0]);
    // Step 0 uses decay 1/10, step 100 the full 0.75.
    average = average.update(&online, 0);
    let values = average.model().values();
    assert!((values[0] - 3.6).abs() < 1e-6, "{values:?}");
    average = average.update(&online, 100);
    let values = average.model().values();
    assert!((values[0] - (0.75 * 3.6 + 0.25 * 4.0)).abs() < 1e-6, "{values:?}");
}

/// Fresh parameters are drawn from the backend's one global stream, which other tests of this process
/// would draw from in between: tests that need equal networks run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

type Toy = Distiller<Mlp, GaussianMixture, Mlp, KarrasSchedule>;

fn toy() -> (Toy, Draw) {
    let device = Device::flex();
    device.seed(3);
    let training = device.clone().autodiff();
    // A network whose last layer is zero gives no gradient to the others: one step makes it general.
    let mlp = || Mlp::new(16, 0.5, &training);
    let distiller = Distiller::new(
        FewStep::new(mlp(), vec![Level::of_sigma(80.0)]).with_noise_scale(80.0),
        GaussianMixture::new(&[(1.0, &[0.5, 0.0], 0.1), (1.0, &[-0.5, 0.2], 0.2)]),
        mlp(),
        KarrasSchedule::default(),
    );
    let times = TimeSampler::Grid(KarrasSchedule::default().sigmas(1000));
    (distiller, Draw::new(&mut Noise::from_seed(9), [8, 2, 1, 1], &times, &device))
}

/// Each loss moves its own network and no other.
#[test]
fn gradients_stay_in_their_network() {
    let _alone = alone();
    let (distiller, draw) = toy();
    let targets = Targets { x0: draw.z.clone().narrow(0, 0, 4), weight: 0.25, distance: &SquaredError };
    let terms = Terms { targets: Some(targets), ..Terms::default() };
    let loss = distiller.generator_loss(&draw, &terms, &());
    let mut grads = loss.total.backward();
    let generator = GradientsParams::from_module(&mut grads, &distiller.generator);
    let fake = GradientsParams::from_module(&mut grads, &distiller.fake);
    assert!(!generator.is_empty());
    assert!(fake.is_empty(), "the generator's loss reaches the fake score");

    let mut grads = distiller.fake_loss(loss.x, &draw.diffusion, &()).backward();
    let fake = GradientsParams::from_module(&mut grads, &distiller.fake);
    let generator = GradientsParams::from_module(&mut grads, &distiller.generator);
    assert!(!fake.is_empty());
    assert!(generator.is_empty(), "the fake score's loss reaches the generator");
}

/// The total is matching plus weight times regression; the surrogate's value is `½ mean g²`.
#[test]
fn generator_loss_adds_up() {
    let _alone = alone();
    let (distiller, draw) = toy();
    let number = |t: Tensor<1>| t.without_autodiff().into_scalar::<f32>();
    let targets = Targets { x0: draw.z.clone().narrow(0, 0, 4), weight: 0.25, distance: &SquaredError };
    let terms = Terms { targets: Some(targets), ..Terms::default() };
    let loss = distiller.generator_loss(&draw, &terms, &());
    let (total, matching) = (number(loss.total), number(loss.matching.unwrap()));
    let regression = number(loss.regression.unwrap());
    assert!((total - matching - 0.25 * regression).abs() < 1e-5 * total.abs());
    let alone = distiller.generator_loss(&draw, &Terms::default(), &());
    assert!(alone.regression.is_none());
    assert!((number(alone.total) - matching).abs() < 1e-6 * matching.abs());
    assert!(!loss.x.is_autodiff());
}

/// DMD2's adversarial term: at logits 0 the losses are ln 2 and 2 ln 2; the generator's turn moves the
/// generator through the critic and leaves no gradient on it; the critic's turn is the fake score's.
#[test]
fn adversarial_terms_stay_in_their_network() {
    let _alone = alone();
    let (mut distiller, draw) = toy();
    let device = Device::flex();
    let schedule = KarrasSchedule::default();
    let times = TimeSampler::Grid(schedule.sigmas(1000));
    let mut noise = Noise::from_seed(4);
    let diffusion = Diffusion::new(&mut noise, [8, 2, 1, 1], &times, &device);
    let only = |weight| Terms {
        matching: None,
        targets: None,
        adversary: Some(Adversary { diffusion: diffusion.clone(), weight }),
    };
    let number = |t: &Tensor<1>| t.clone().without_autodiff().into_scalar::<f32>();
    // Without a head there is no term, and the loss of no term is 0.
    let none = distiller.generator_loss(&draw, &only(1.0), &());
    assert!(none.adversarial.is_none() && number(&none.total) == 0.0);

    distiller.fake = distiller.fake.with_critic(&device.clone().autodiff());
    let loss = distiller.generator_loss(&draw, &only(0.5), &());
    let adversarial = number(loss.adversarial.as_ref().unwrap());
    assert!((number(&loss.total) - 0.5 * adversarial).abs() < 1e-6);
    let mut grads = loss.total.backward();
    let generator = GradientsParams::from_module(&mut grads, &distiller.generator);
    let fake = GradientsParams::from_module(&mut grads, &distiller.fake);
    assert!(!generator.is_empty());
    assert!(fake.is_empty(), "the generator's turn leaves gradients on the critic");

    let x0 = distiller.teacher.sample(8, &mut noise, &device);
    let reals =
        Reals { x0, condition: (), diffusion: Diffusion::new(&mut noise, [8, 2, 1, 1], &times, &device) };
    let critic = distiller.critic_loss(loss.x, &diffusion, &(), &reals).unwrap();
    let mut grads = critic.loss.backward();
    let fake = GradientsParams::from_module(&mut grads, &distiller.fake);
    let generator = GradientsParams::from_module(&mut grads, &distiller.generator);
    assert!(!fake.is_empty());
    assert!(generator.is_empty(), "the critic's turn reaches the generator");
}

/// Stops after a number of steps.
struct StopAt(usize, usize);

impl Observer for StopAt {
    fn on_step(&mut self, _report: &StepReport<'_>) {
        self.1 += 1;
    }

    fn stopped(&self) -> bool {
        self.1 >= self.0
    }
}

fn tiny_autoencoder(steps: usize) -> AutoencoderSection {
    AutoencoderSection {
        block_out_channels: vec![4, 4, 4],
        layers_per_block: 1,
        latent_channels: 2,
        norm_num_groups: 2,
        kl_weight: 1e-4,
        latent_noise: 0.1,
        preview_weight: 1.0,
        batch: 2,
        learning_rate: 1e-3,
        warmup_steps: 1,
        ema_decay: 0.9,
        pace: Pace { steps, log_every: 1, grid_every: 100, checkpoint_every: 100, keep: 1 },
    }
}

/// A finished autoencoder's latents have mean 0 and variance 1 in every channel; its pictures are those of
/// the network as it was trained.
#[test]
fn finished_latents_are_standardised() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let section = tiny_autoencoder(3);
    let mut stage =
        AutoencoderRecipe::start(section.clone(), Arc::new(Shapes), 5, Fingerprint::new(), &device).unwrap();
    run(&mut stage, &section.pace, folder.path(), &mut StopAt(100, 0)).unwrap();
    let (network, config) = stage.finish(128).unwrap();
    assert!((config.scaling_factor - 1.0).abs() < f64::EPSILON);
    let mut noise = Noise::from_seed(77);
    let scenes: Vec<_> = (0..128).map(|_| Shapes.draw(&mut noise).unwrap().image).collect();
    let pictures = from_rgb8(&scenes, &device);
    let latents = network.encode(pictures.clone()).mode();
    let channels = latents.clone().swap_dims(0, 1).flatten::<2>(1, 3);
    let mean = channels.clone().mean_dim(1);
    let variance = (channels - mean.clone()).square().mean_dim(1);
    // 128 other pictures than the statistics are of: within a few hundredths.
    for (mean, variance) in mean.into_data().iter::<f32>().zip(variance.into_data().iter::<f32>()) {
        assert!(mean.abs() < 0.1 && (variance - 1.0).abs() < 0.2, "{mean} {variance}");
    }
    let trained = stage.trained().clone();
    let (ours, theirs) = (network.decode(latents), trained.decode(trained.encode(pictures).mode()));
    // Two 1×1 convolutions computed another way round: roundings of numbers of the order of 1.
    let error = (ours - theirs).abs().max().into_scalar::<f32>();
    assert!(error < 1e-5, "{error}");
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
    let losses = |run: &Path| -> Vec<f64> {
        let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let line = |l: &str| serde_json::from_str::<serde_json::Value>(l).unwrap()["reconstruction"].as_f64();
        text.lines().filter_map(line).collect()
    };
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
    let pace = Pace { steps: 9, log_every: 1, grid_every: 100, checkpoint_every: 1, keep: 1 };
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

fn configs() -> impl Iterator<Item = std::path::PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())
}

/// Every shipped configuration parses, and survives being written out.
#[test]
fn shipped_configurations_parse() {
    let mut count = 0;
    for path in configs() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.contains("teacher") {
            let config = TeacherConfig::from_file(&path).unwrap();
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<TeacherConfig>(&text).unwrap(), config);
        } else {
            let config = DistillConfig::from_file(&path).unwrap();
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<DistillConfig>(&text).unwrap(), config);
        }
        count += 1;
    }
    assert!(count >= 2);
}

#[test]
fn wrong_configurations_name_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    let shipped = configs().find(|p| p.to_string_lossy().contains("teacher")).unwrap();
    let text = fs::read_to_string(shipped).unwrap();
    for (from, to, word) in [
        ("[text]", "[text]\nwitdh = 3", "witdh"),
        ("seed = ", "sede = ", "sede"),
        ("width = 128", "width = -1", "width"),
        ("caption_dropout = 0.1", "caption_dropout = 1.5", "diffusion.caption_dropout"),
        ("heads = 4", "heads = 5", "text.heads"),
    ] {
        assert!(text.contains(from), "{from}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let message = TeacherConfig::from_file(&path).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    }
    let message = TeacherConfig::from_file(&folder.path().join("none.toml")).unwrap_err().to_string();
    assert!(message.contains("none.toml"), "{message}");
}
