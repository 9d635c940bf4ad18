//! What the tests train: points of the plane, a tiny autoencoder, and classes of pictures of eight pixels.

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::Device;
use dmd_ablations::toy::Mlp;
use dmd_core::{Distiller, Draw, FewStep, GaussianMixture, Level, Noise};
use dmd_data::{Dataset, ImageFolder};
use dmd_model::{Family, Model, ModelFolder, OpenOptions, PixelClasses};
use dmd_scheduler::{KarrasSchedule, TimeSampler};
use dmd_train::config::{AutoencoderSection, DistillConfig, PixelTeacherConfig, Schedule};
use dmd_train::fingerprint::Fingerprint;
use dmd_train::pairs::{PairMaker, Pairs, Share};
use dmd_train::run::{Outcome, Pace, run};
use dmd_train::{DistillationParts, DistillationStage, Error, PixelRecipe};
use dmd_weights::Precision;

use crate::StopAt;
use crate::bright_and_dark::bright_and_dark;

/// Points of the plane.
pub(crate) type Toy = Distiller<Mlp, GaussianMixture, Mlp, KarrasSchedule>;

/// A distillation in the plane and what its turn draws. The same networks every time, for who holds [`crate::alone`].
pub(crate) fn toy() -> (Toy, Draw) {
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

/// The smallest autoencoder, of pictures of the shapes set.
pub(crate) fn tiny_autoencoder(steps: usize) -> AutoencoderSection {
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
        schedule: Schedule::Cosine,
        warmup_steps: 1,
        ema_decay: 0.9,
        pace: Pace {
            steps,
            log_every: 1,
            grid_every: 100,
            checkpoint_every: 100,
            keep: 1,
            tensorboard: false,
        },
    }
}

/// A data set of two classes with a teacher of them that has learnt nothing yet.
pub(crate) struct Classes {
    pub(crate) home: tempfile::TempDir,
    pub(crate) dataset: Arc<dyn Dataset>,
    pub(crate) model: Model<PixelClasses>,
}

const TEACHER: &str = r#"
    kind = "pixels"
    seed = 1
    output = "."
    data = { kind = "folder", path = ".", size = 8 }
    unet = { block_out_channels = [8, 8], layers_per_block = 1, attention_head_dim = 4, norm_num_groups = 4 }
    [training]
    batch = 2
    learning_rate = 1e-3
    warmup_steps = 1
    ema_decay = 0.9
    class_dropout = 0.1
    pace = { steps = 1 }
"#;

const DISTILLATION: &str = r#"
    seed = 2
    teacher = "teacher"
    output = "run"
    guidance_scale = 1.5
    data = { kind = "folder", path = "pictures", size = 8 }
    generator = { batch = 2, learning_rate = 1e-3, warmup_steps = 1, ema_decay = 0.5 }
    fake = { learning_rate = 1e-3, steps_per_generator_step = 2 }
    matching = { first_timestep = 20, last_timestep = 980 }
    regression = { weight = 1.0, pairs = 4, sampling_steps = 2, warmup_steps = 1 }
    adversarial = { generator_weight = 1e-2, critic_weight = 1e-2, reals = 4 }
    pace = { steps = 5, log_every = 1, grid_every = 100, checkpoint_every = 100 }
"#;

impl Classes {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let pictures = home.path().join("pictures");
        bright_and_dark(&pictures, 4, 60);
        let dataset: Arc<dyn Dataset> = Arc::new(ImageFolder::open(&pictures, 8).unwrap());
        let device = Device::flex();
        let config: PixelTeacherConfig = toml::from_str(TEACHER).unwrap();
        let mut teacher = PixelRecipe::start(config, dataset.clone(), Fingerprint::new(), &device).unwrap();
        // A network whose last layer is zero says the same of every class.
        let pace = Pace {
            steps: 1,
            log_every: 1,
            grid_every: 100,
            checkpoint_every: 100,
            keep: 1,
            tensorboard: false,
        };
        run(&mut teacher, &pace, &home.path().join("training"), &mut StopAt(100, 0)).unwrap();
        let folder = home.path().join("teacher");
        teacher.model().unwrap().write_teacher(&ModelFolder::new(&folder), Precision::Single).unwrap();
        let model = PixelClasses::open(&OpenOptions::new(folder, &device)).unwrap();
        Self { home, dataset, model }
    }

    /// A distillation with every term, into a folder of the home.
    pub(crate) fn config(&self, output: &str) -> DistillConfig {
        let mut config: DistillConfig = toml::from_str(DISTILLATION).unwrap();
        config.teacher = self.home.path().join("teacher");
        config.output = self.home.path().join(output);
        config
    }

    /// Makes those of a configuration's pairs that its folder does not hold yet.
    pub(crate) fn try_pairs(&self, config: &DistillConfig, observer: &mut StopAt) -> Result<Outcome, Error> {
        let section = config.regression.as_ref().unwrap();
        let maker = PairMaker {
            model: &self.model,
            guidance_scale: config.guidance_scale,
            dataset: self.dataset.as_ref(),
            cache: None,
            steps: section.sampling_steps,
            seed: config.seed,
            batch: config.generator.batch,
            device: &Device::flex(),
            made_from: config.fingerprints(self.dataset.as_ref()).unwrap().pairs,
        };
        maker.make(&config.output.join("pairs"), section.pairs, Share::ALL, observer)
    }

    /// Makes a configuration's pairs, and gives their folder and how often the observer was told of some.
    pub(crate) fn make_pairs(&self, config: &DistillConfig) -> (PathBuf, usize) {
        let mut observer = StopAt(100, 0);
        assert_eq!(self.try_pairs(config, &mut observer).unwrap(), Outcome::Finished);
        (config.output.join("pairs"), observer.1)
    }

    /// The stage of a configuration, with its pairs.
    pub(crate) fn stage(&self, config: &DistillConfig) -> DistillationStage<'_, PixelClasses> {
        let made_from = config.fingerprints(self.dataset.as_ref()).unwrap();
        let (folder, _) = self.make_pairs(config);
        let count = config.regression.as_ref().unwrap().pairs;
        let pairs = Pairs::open(&folder, count, self.model.shape(), &made_from.pairs).unwrap();
        let parts = DistillationParts {
            teacher: self.model.teacher().unwrap().clone(),
            dataset: self.dataset.clone(),
            pairs: Some(pairs),
            cache: None,
            made_from: made_from.run,
        };
        DistillationStage::new(config.clone(), &self.model, parts, &Device::flex()).unwrap()
    }
}
