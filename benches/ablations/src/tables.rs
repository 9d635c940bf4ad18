//! What a table is made of.

use crate::experiment::Experiment;
use crate::variants::Variant;

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
    /// A row with which every generator is compared, seed by seed, and the figures that are.
    pub against: Option<(&'static str, &'static [&'static str])>,
}
