//! Which rows the papers' tables have in the small, and what is expected of them.

use std::path::PathBuf;

use burn::tensor::Device;
use dmd_core::matching::Weighting;

use super::{
    Data, Effort, Figure, Modes, Pictures, Student, Variant, distil, teacher as train_teacher,
    teacher_samples,
};
use crate::Error;
use crate::toy::ClassMlp;

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
}

/// A folder of pictures, each caption a class.
#[derive(Debug, Clone)]
pub struct PictureFolder {
    /// Where it is.
    pub path: PathBuf,
    /// Height and width its pictures are resized to, a multiple of 8.
    pub size: u32,
}

/// A row of a table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Row {
    /// Fresh samples of the data.
    Data,
    /// The teacher's own samples, by Heun's method.
    Teacher {
        /// Its name in the table.
        name: &'static str,
        /// Heun steps.
        steps: usize,
        /// Guidance.
        guidance: f64,
    },
    /// A distilled generator.
    Generator(Variant),
}

impl Row {
    /// Its name in the table.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Teacher { name, .. } => name,
            Self::Generator(variant) => variant.name,
        }
    }
}

/// Figures of one seed by row and column; NaN for what was not measured.
pub type Lookup<'a> = dyn Fn(&str, &str) -> f64 + 'a;

/// What is expected of a table, seed by seed.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// In words.
    pub text: &'static str,
    /// Whether it holds in a seed.
    pub holds: fn(&Lookup<'_>) -> bool,
}

/// A table of the papers in the small.
#[derive(Debug, Clone)]
pub struct Table {
    /// Short name: `m1`.
    pub id: &'static str,
    /// What it is about, and what it mirrors.
    pub title: &'static str,
    /// What its rows are trained on.
    pub experiment: Experiment,
    /// Its rows.
    pub rows: Vec<Row>,
    /// What is expected.
    pub claims: Vec<Claim>,
}

const TEACHER: Row = Row::Teacher { name: "teacher, Heun 18", steps: 18, guidance: 1.0 };
const RATIO_5: Variant = Variant::BASE;
const REGRESSION: Variant =
    Variant { name: "regression only", matching: None, regression: 1.0, ratio: 1, ..RATIO_5 };
const RATIO_1: Variant = Variant { name: "matching only, ratio 1", ratio: 1, ..RATIO_5 };
const DMD: Variant = Variant { name: "DMD: matching and regression", regression: 0.25, ratio: 1, ..RATIO_5 };
const DMD2: Variant = Variant { name: "DMD2: ratio 5 and adversarial", adversarial: 0.03, ..RATIO_5 };
const ADVERSARIAL: Variant =
    Variant { name: "adversarial only, ratio 5", matching: None, adversarial: 0.1, ..RATIO_5 };

/// Whether a figure is at least another; of a run that diverged, none is.
fn reaches(figure: f64, other: f64) -> bool {
    figure >= other
}

/// The tables of the toys, in the papers' order.
pub fn tables() -> Vec<Table> {
    let generators = |variants: &[Variant]| variants.iter().map(|v| Row::Generator(*v)).collect::<Vec<_>>();
    let with = |first: &[Row], variants: &[Variant]| [first, &generators(variants)].concat();
    vec![
        Table {
            id: "m1",
            title: "The losses (DMD, table 2 left)",
            experiment: Experiment::Bars,
            rows: with(&[Row::Data, TEACHER], &[REGRESSION, RATIO_1, DMD]),
            claims: vec![
                Claim {
                    text: "DMD is sharper than regression only",
                    holds: |at| at(DMD.name, "sharp") > at(REGRESSION.name, "sharp"),
                },
                Claim {
                    text: "both cover every mode",
                    holds: |at| {
                        at(DMD.name, "off") < 0.3
                            && at(DMD.name, "uneven") < 0.3
                            && at(REGRESSION.name, "uneven") < 0.3
                    },
                },
                Claim {
                    text: "matching only at ratio 1 drops modes or diverges",
                    holds: |at| !(at(RATIO_1.name, "uneven") < 0.5 && at(RATIO_1.name, "off") < 0.3),
                },
            ],
        },
        Table {
            id: "m2",
            title: "The matching term's weighting (DMD, table 2 right)",
            experiment: Experiment::Ring,
            rows: with(&[TEACHER], &[RATIO_5, SIGMA, SIGMA_CUBED]),
            claims: vec![Claim {
                text: "equation 8 is nearest to the data",
                holds: |at| {
                    let own = at(RATIO_5.name, "energy");
                    own < at(SIGMA.name, "energy") && own < at(SIGMA_CUBED.name, "energy")
                },
            }],
        },
        Table {
            id: "m3",
            title: "Two time scales after a short training (DMD2, appendix C)",
            experiment: Experiment::RingEarly,
            rows: with(&[TEACHER], &[RATIO_1, RATIO_5, RATIO_10, FAST_FAKE]),
            claims: vec![
                Claim {
                    text: "the batch mean is more than 1.5 times as restless at ratio 1 as at 5",
                    holds: |at| at(RATIO_1.name, "jitter") > 1.5 * at(RATIO_5.name, "jitter"),
                },
                Claim {
                    text: "ratio 5 is nearer to the data than ratio 1",
                    holds: |at| at(RATIO_5.name, "energy") < at(RATIO_1.name, "energy"),
                },
                Claim {
                    text: "ratio 10 is at least as near as ratio 5",
                    holds: |at| at(RATIO_10.name, "energy") <= at(RATIO_5.name, "energy"),
                },
                Claim {
                    text: "a five times faster fake score at ratio 1 is further than ratio 5",
                    holds: |at| at(FAST_FAKE.name, "energy") > at(RATIO_5.name, "energy"),
                },
            ],
        },
        Table {
            id: "m4",
            title: "The components (DMD2, table 3)",
            experiment: Experiment::Bars,
            rows: with(&[TEACHER], &[DMD, RATIO_1, RATIO_5, DMD2, ADVERSARIAL]),
            claims: vec![
                Claim {
                    text: "without regression at ratio 1 is the worst of the matching rows",
                    holds: |at| {
                        let worst = at(RATIO_1.name, "energy");
                        [DMD.name, RATIO_5.name, DMD2.name]
                            .iter()
                            .all(|row| !reaches(at(row, "energy"), worst))
                    },
                },
                Claim {
                    text: "two time scales are at least as sharp as DMD, without pairs",
                    holds: |at| at(RATIO_5.name, "sharp") >= at(DMD.name, "sharp"),
                },
                Claim {
                    text: "the adversarial term makes it sharper",
                    holds: |at| at(DMD2.name, "sharp") > at(RATIO_5.name, "sharp"),
                },
                Claim {
                    text: "the adversarial term evens out the modes",
                    holds: |at| at(DMD2.name, "uneven") < at(RATIO_5.name, "uneven"),
                },
                Claim {
                    text: "adversarial only is less sharp than DMD2",
                    holds: |at| at(ADVERSARIAL.name, "sharp") < at(DMD2.name, "sharp"),
                },
            ],
        },
        Table {
            id: "m5",
            title: "Backward simulation, four steps (DMD2, table 4)",
            experiment: Experiment::Bars,
            rows: with(&[TEACHER], &[FOUR, FOUR_FROM_REAL]),
            claims: vec![Claim {
                text: "inputs the generator made itself are at least as good as diffused real ones",
                holds: |at| at(FOUR.name, "sharp") >= at(FOUR_FROM_REAL.name, "sharp"),
            }],
        },
        Table {
            id: "m6",
            title: "What bounds the generator: the teacher's sampler",
            experiment: Experiment::NoisyBars,
            rows: with(
                &[Row::Data, TEACHER, Row::Teacher { name: COARSE_TEACHER, steps: 5, guidance: 1.0 }],
                &[REGRESSION, COARSE_REGRESSION, STRONG_DMD2],
            ),
            claims: vec![
                Claim {
                    text: "regression alone is bounded by the teacher's sampler, at 18 steps and at 5",
                    holds: |at| {
                        at(REGRESSION.name, "sharp") <= at(TEACHER.name(), "sharp")
                            && at(COARSE_REGRESSION.name, "sharp") <= at(COARSE_TEACHER, "sharp")
                    },
                },
                Claim {
                    text: "with real samples DMD2 comes nearer to the modes than its noisy teacher",
                    holds: |at| at(STRONG_DMD2.name, "off") < at(TEACHER.name(), "off"),
                },
            ],
        },
        Table {
            id: "m7",
            title: "Steps of the generator",
            experiment: Experiment::Bars,
            rows: with(&[TEACHER], &[RATIO_5, TWO, FOUR]),
            claims: vec![
                Claim {
                    text: "two steps are at least as sharp as one",
                    holds: |at| at(TWO.name, "sharp") >= at(RATIO_5.name, "sharp"),
                },
                Claim {
                    text: "four steps are at least as sharp as two",
                    holds: |at| at(FOUR.name, "sharp") >= at(TWO.name, "sharp"),
                },
            ],
        },
        Table {
            id: "m8",
            title: "Guidance of the teacher",
            experiment: Experiment::PreferredBars,
            rows: with(&[Row::Data, TEACHER], &GUIDED),
            claims: vec![
                Claim {
                    text: "the class comes out more clearly the stronger the guidance",
                    holds: |at| {
                        GUIDED
                            .windows(2)
                            .all(|pair| at(pair[1].name, "right class") > at(pair[0].name, "right class"))
                    },
                },
                Claim {
                    text: "and in less variety",
                    holds: |at| {
                        GUIDED
                            .windows(2)
                            .all(|pair| at(pair[1].name, "variety") < at(pair[0].name, "variety"))
                    },
                },
            ],
        },
        picture_table("shapes", "The loss rows on single shapes, 8×8", Experiment::Shapes),
        picture_table("pictures", "The loss rows on a folder of pictures", Experiment::Folder),
    ]
}

/// The losses' rows on pictures.
fn picture_table(id: &'static str, title: &'static str, experiment: Experiment) -> Table {
    let variants = [REGRESSION, RATIO_1, DMD, RATIO_5, DMD2, DMD2_FOUR];
    let rows = [Row::Data, TEACHER].into_iter().chain(variants.map(Row::Generator)).collect();
    let claims = vec![
        Claim {
            text: "regression only: fewer sharp and right samples than DMD",
            holds: |at| at(REGRESSION.name, GOOD) < at(DMD.name, GOOD),
        },
        Claim {
            text: "matching only, one time scale: less covered than DMD, or it diverges",
            holds: |at| !reaches(at(RATIO_1.name, "covered"), at(DMD.name, "covered")),
        },
        Claim {
            text: "two time scales, no pairs: at least as many sharp and right as DMD",
            holds: |at| at(RATIO_5.name, GOOD) >= at(DMD.name, GOOD),
        },
        Claim {
            text: "its batch mean is calmer: less than 1 / 1.5 of ratio 1's jitter",
            holds: |at| at(RATIO_1.name, "jitter") > 1.5 * at(RATIO_5.name, "jitter"),
        },
        Claim {
            text: "DMD2 is nearest to the real pictures of the one-step rows",
            holds: |at| {
                let others = [REGRESSION, RATIO_1, DMD, RATIO_5];
                others.iter().all(|other| !reaches(at(DMD2.name, "distance"), at(other.name, "distance")))
            },
        },
        Claim {
            text: "DMD2 is nearer to the real pictures than the teacher's own sampler",
            holds: |at| at(DMD2.name, "distance") < at(TEACHER.name(), "distance"),
        },
        Claim {
            text: "four steps are at least as near as one",
            holds: |at| at(DMD2_FOUR.name, "distance") <= at(DMD2.name, "distance"),
        },
    ];
    Table { id, title, experiment, rows, claims }
}

const GOOD: &str = "sharp and right";
const DMD2_FOUR: Variant = Variant { name: "DMD2, four steps", steps: 4, ..DMD2 };
const SIGMA: Variant =
    Variant { name: "ratio 5, weight sigma / alpha", matching: Some(Weighting::SigmaOverAlpha), ..RATIO_5 };
const SIGMA_CUBED: Variant = Variant {
    name: "ratio 5, weight sigma³ / alpha",
    matching: Some(Weighting::SigmaCubedOverAlpha),
    ..RATIO_5
};
const RATIO_10: Variant = Variant { name: "two time scales, ratio 10", ratio: 10, ..RATIO_5 };
const FAST_FAKE: Variant =
    Variant { name: "matching only, ratio 1, fake rate × 5", fake_rate: 5.0, ..RATIO_1 };
const TWO: Variant = Variant { name: "two steps, ratio 5", steps: 2, ..RATIO_5 };
const FOUR: Variant = Variant { name: "four steps, ratio 5", steps: 4, ..RATIO_5 };
const FOUR_FROM_REAL: Variant =
    Variant { name: "four steps, from diffused real samples", simulated: false, ..FOUR };
const COARSE_TEACHER: &str = "teacher, Heun 5";
const COARSE_REGRESSION: Variant =
    Variant { name: "regression only, pairs of Heun 5", pair_steps: 5, ..REGRESSION };
const STRONG_DMD2: Variant =
    Variant { name: "DMD2: ratio 5, adversarial weight 0.3", adversarial: 0.3, ..RATIO_5 };
const GUIDED: [Variant; 4] = [
    Variant { name: "ratio 5 and regression, guidance 1", regression: 0.25, ..RATIO_5 },
    Variant { name: "ratio 5 and regression, guidance 2", regression: 0.25, guidance: 2.0, ..RATIO_5 },
    Variant { name: "ratio 5 and regression, guidance 4", regression: 0.25, guidance: 4.0, ..RATIO_5 },
    Variant { name: "ratio 5 and regression, guidance 8", regression: 0.25, guidance: 8.0, ..RATIO_5 },
];

/// What is told of a row and its figures as soon as they are there.
pub type Done<'a> = dyn FnMut(&Row, &[Figure]) -> Result<(), Error> + 'a;

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
        }
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
        }
    }

    /// Trains the experiment's teacher with one seed and runs rows on it; `done` is told of each.
    ///
    /// # Errors
    ///
    /// What `done` returns; [`Error::Data`] when a folder's pictures cannot be used, [`Error::Option`] when
    /// there is none for [`Self::Folder`].
    pub fn run(
        self,
        folder: Option<&PictureFolder>,
        rows: &[Row],
        effort: &Effort,
        seed: u64,
        device: &Device,
        done: &mut Done<'_>,
    ) -> Result<(), Error> {
        let (taught, data, width) = match self {
            Self::Ring | Self::RingEarly => (Modes::ring(), Modes::ring(), 96),
            Self::Bars => (Modes::bars(0.05), Modes::bars(0.05), 160),
            Self::NoisyBars => (Modes::bars(0.1), Modes::bars(0.05), 160),
            Self::PreferredBars => (Modes::preferred_bars(), Modes::preferred_bars(), 160),
            Self::Shapes | Self::Folder => {
                let pictures = match (self, folder) {
                    (Self::Shapes, _) => Pictures::shapes(device),
                    (_, Some(folder)) => Pictures::folder(&folder.path, folder.size, device)?,
                    (_, None) => {
                        return Err(Error::Option {
                            key: "pictures",
                            value: "none".to_owned(),
                            must: "a folder of pictures for this table",
                        });
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
) -> Result<(), Error> {
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
