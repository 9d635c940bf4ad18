//! A data set with its networks, and how its rows are run.

use anyhow::Context;
use burn::tensor::Device;
use dmd_data::ImageFolder;

use crate::convolutional::convolutional;
use crate::data::{Data, Figure, Modes};
use crate::pictures::Pictures;
use crate::tables::Row;
use crate::toy::ClassMlp;
use crate::training::{Effort, Student, distil, teacher as train_teacher, teacher_samples};

/// A data set with its networks and their training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Experiment {
    /// Eight Gaussians on a ring.
    Ring,
    /// The same, a tenth of the updates: where time scales differ most.
    RingEarly,
    /// Sixteen bars in 8×8 pictures.
    Bars,
    /// Bars whose teacher has seen twice the pixel noise of the real ones.
    NoisyBars,
    /// Bars of two classes.
    PreferredBars,
    /// Single shapes, 8×8, of eighteen classes.
    Shapes,
    /// A folder's pictures in the same network.
    Folder,
    /// A folder of digits in a convolutional network, judged by a classifier that saw other pictures.
    Digits,
}

/// What is told of a row and its figures as soon as they are there.
pub type Done<'a> = dyn FnMut(&Row, &[Figure]) -> anyhow::Result<()> + 'a;

impl Experiment {
    /// Its name in a file of results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::RingEarly => "ring, early",
            Self::Bars => "bars",
            Self::NoisyBars => "bars, noisy teacher",
            Self::PreferredBars => "bars of two classes",
            Self::Shapes => "single shapes, 8×8",
            Self::Folder => "folder",
            Self::Digits => "digits, convolutional",
        }
    }

    /// Whether its pictures are a folder's.
    pub fn of_folder(self) -> bool {
        matches!(self, Self::Folder | Self::Digits)
    }

    /// How long it trains: the reference runs' figures.
    pub fn effort(self) -> Effort {
        let ring = Effort {
            batch: 256,
            teacher_steps: 6000,
            teacher_rate: 2e-3,
            updates: 2500,
            rate: 3e-4,
            measured: 2000,
        };
        match self {
            Self::Ring => ring,
            Self::RingEarly => Effort { updates: 300, ..ring },
            Self::Bars | Self::NoisyBars | Self::PreferredBars => {
                Effort { updates: 1500, measured: 4000, ..ring }
            }
            Self::Shapes | Self::Folder => Effort { batch: 128, updates: 1000, measured: 1500, ..ring },
            Self::Digits => Effort { batch: 32, teacher_steps: 4000, updates: 600, measured: 750, ..ring },
        }
    }

    /// Trains the experiment's teacher with one seed and runs rows on it; `done` is told of each.
    ///
    /// # Errors
    ///
    /// What `done` returns; when a folder's pictures cannot be used, or none is given for [`Self::Folder`] and
    /// [`Self::Digits`].
    pub fn run(
        self,
        folder: Option<&ImageFolder>,
        rows: &[Row],
        effort: &Effort,
        seed: u64,
        device: &Device,
        done: &mut Done<'_>,
    ) -> anyhow::Result<()> {
        let (taught, data, width) = match self {
            Self::Ring | Self::RingEarly => (Modes::ring(), Modes::ring(), 96),
            Self::Bars => (Modes::bars(0.05), Modes::bars(0.05), 160),
            Self::NoisyBars => (Modes::bars(0.1), Modes::bars(0.05), 160),
            Self::PreferredBars => (Modes::preferred_bars(), Modes::preferred_bars(), 160),
            Self::Digits => {
                let folder = folder.context("the table `digits` needs --digits FOLDER")?;
                let pictures = Pictures::folder(folder, true, device)?;
                device.seed(seed);
                let network = convolutional(pictures.shape(), pictures.classes(), &device.clone().autodiff());
                return run_rows(network, &pictures, &pictures, rows, effort, seed, device, done);
            }
            Self::Shapes | Self::Folder => {
                let pictures = match self {
                    Self::Shapes => Pictures::shapes(device),
                    _ => {
                        let folder = folder.context("the table `pictures` needs --pictures FOLDER")?;
                        Pictures::folder(folder, false, device)?
                    }
                };
                device.seed(seed);
                let (dim, classes) = (pictures.shape().iter().product(), pictures.classes());
                let network = ClassMlp::new(dim, classes, 256, 0.5, &device.clone().autodiff());
                return run_rows(network, &pictures, &pictures, rows, effort, seed, device, done);
            }
        };
        device.seed(seed);
        let [dim, ..] = data.shape();
        let network = ClassMlp::new(dim, data.classes(), width, 0.5, &device.clone().autodiff());
        run_rows(network, &taught, &data, rows, effort, seed, device, done)
    }
}

/// Runs rows of one seed: the teacher learns `taught`, real samples and the judgement are of `data`.
///
/// # Errors
///
/// What `done` returns.
#[expect(clippy::too_many_arguments, reason = "an experiment's parts, each used once")]
pub(crate) fn run_rows<N: Student>(
    network: N,
    taught: &dyn Data,
    data: &dyn Data,
    rows: &[Row],
    effort: &Effort,
    seed: u64,
    device: &Device,
    done: &mut Done<'_>,
) -> anyhow::Result<()> {
    let teacher = train_teacher(network, taught, effort, seed, device);
    for row in rows {
        let figures = match row {
            Row::Data => data.judge(&data.fresh(effort.measured, device)),
            Row::Teacher { steps, guidance, .. } => {
                let made = teacher_samples(&teacher, data, (*steps, *guidance), effort.measured, device);
                data.judge(&made)
            }
            Row::Generator(variant) => {
                let (made, jitter) = distil(&teacher, data, variant, effort, seed, device);
                let mut figures = data.judge(&made);
                figures.push(Figure { name: "jitter", value: jitter });
                figures
            }
        };
        done(row, &figures)?;
    }
    Ok(())
}
