//! The file of measured rows, from which a stopped call goes on.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use dmd_ablations::data::Figure;
use dmd_ablations::experiment::Experiment;
use dmd_ablations::tables::Row;
use dmd_ablations::training::Effort;
use serde::{Deserialize, Serialize};

/// Half of a batch with pairs is fresh, and pictures are judged by held-out ones.
const WAY: usize = 1;

/// What a row was trained on and how long: rows of another key are not taken for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Key {
    experiment: String,
    row: String,
    seed: u64,
    updates: usize,
    teacher_steps: usize,
    /// How rows are trained and judged; rows of another way are measured anew.
    #[serde(default)]
    way: usize,
    /// The folder's fingerprint, for the experiment on a folder of pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<String>,
}

impl Key {
    pub(crate) fn new(
        experiment: Experiment,
        row: &Row,
        seed: u64,
        effort: &Effort,
        data: Option<&str>,
    ) -> Self {
        Self {
            experiment: experiment.name().to_owned(),
            row: row.name().to_owned(),
            seed,
            updates: effort.updates,
            teacher_steps: effort.teacher_steps,
            way: WAY,
            data: data.filter(|_| experiment.of_folder()).map(str::to_owned),
        }
    }
}

/// One measured row; a figure that is not finite is `None`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    #[serde(flatten)]
    pub(crate) key: Key,
    figures: Vec<(String, Option<f64>)>,
}

impl Measured {
    pub(crate) fn new(key: Key, figures: &[Figure]) -> Self {
        let finite = |f: &Figure| (f.name.to_owned(), f.value.is_finite().then_some(f.value));
        Self { key, figures: figures.iter().map(finite).collect() }
    }

    /// Names of the figures, in order.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &str> {
        self.figures.iter().map(|(name, _)| name.as_str())
    }

    pub(crate) fn figure(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|(found, _)| found == name).and_then(|(_, value)| *value)
    }
}

/// Rows of this call and of earlier ones.
#[derive(Debug)]
pub(crate) struct Results {
    path: PathBuf,
    rows: Vec<Measured>,
}

impl Results {
    /// Reads a file; a line that was cut while it was written is made again.
    pub(crate) fn read(path: PathBuf) -> anyhow::Result<Self> {
        let rows = match fs::read_to_string(&path) {
            Ok(text) => text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {path:?}")),
        };
        Ok(Self { path, rows })
    }

    pub(crate) fn find(&self, key: &Key) -> Option<&Measured> {
        self.rows.iter().find(|row| row.key == *key)
    }

    /// Adds a row to the file and to memory.
    pub(crate) fn add(&mut self, row: Measured) -> anyhow::Result<()> {
        let line = serde_json::to_string(&row)?;
        append(&self.path, &line).with_context(|| format!("cannot write {:?}", self.path))?;
        self.rows.push(row);
        Ok(())
    }
}

/// Adds a line. A half line that a kill left behind ends first, so that it spoils no other.
fn append(path: &Path, line: &str) -> std::io::Result<()> {
    let half = fs::read(path).is_ok_and(|bytes| bytes.last().is_some_and(|last| *last != b'\n'));
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(file, "{}{line}", if half { "\n" } else { "" })
}
