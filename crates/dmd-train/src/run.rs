//! The loop around every training: logging, picture grids, checkpoints, a clean stop.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use dmd_data::grid;
use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::checkpoint::{RunState, newest, replace_folder, set_aside};
use crate::report::{self, Alarm};

/// A training that advances by steps.
pub trait Stage {
    /// Short name, used for file names: `autoencoder`, `diffusion`, `distillation`.
    fn name(&self) -> &'static str;

    /// One optimiser step; the losses by name.
    ///
    /// # Errors
    ///
    /// What the data source returns. Losses are checked by [`run`].
    fn step(&mut self, step: usize) -> Result<Vec<(&'static str, f64)>, Error>;

    /// Writes everything the stage needs to go on into an empty folder.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    fn save(&self, folder: &Path) -> Result<(), Error>;

    /// Reads what [`Self::save`] wrote, and the position of the random stream from `state`.
    ///
    /// # Errors
    ///
    /// When a file is missing or of another configuration.
    fn load(&mut self, folder: &Path, state: &RunState) -> Result<(), Error>;

    /// The run's state after `step` steps.
    fn state(&self, step: usize, seconds: f64) -> RunState;

    /// A few pictures, and figures measured on them, that show where the training stands.
    ///
    /// # Errors
    ///
    /// What the data source returns.
    fn probe(&self) -> Result<Probe, Error>;
}

/// Where a training stands, to look at.
#[derive(Debug, Clone, Default)]
pub struct Probe {
    /// Pictures of one size.
    pub pictures: Vec<RgbImage>,
    /// Figures by name, for `metrics.jsonl`.
    pub figures: Vec<(&'static str, f64)>,
}

/// How long a stage runs and how often it reports.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    /// Optimiser steps in all.
    pub steps: usize,
    /// A line in `metrics.jsonl` every so many steps.
    #[serde(default = "one")]
    pub log_every: usize,
    /// A grid of pictures every so many steps.
    #[serde(default = "five_hundred")]
    pub grid_every: usize,
    /// A checkpoint every so many steps.
    #[serde(default = "five_hundred")]
    pub checkpoint_every: usize,
    /// Checkpoints that are kept, the newest among them; older ones are named by their step.
    #[serde(default = "one")]
    pub keep: usize,
}

fn one() -> usize {
    1
}

fn five_hundred() -> usize {
    500
}

/// What a run tells the outside, and asks it.
pub trait Observer {
    /// Called after every step.
    fn on_step(&mut self, report: &StepReport<'_>);

    /// Called when a figure leaves the band in which a run is healthy.
    fn on_alarm(&mut self, _alarm: &Alarm) {}

    /// Whether to stop now, with a checkpoint.
    fn stopped(&self) -> bool;
}

/// One step as the observer sees it.
#[derive(Debug)]
pub struct StepReport<'a> {
    /// The stage's name.
    pub stage: &'static str,
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Losses of this step by name.
    pub losses: &'a [(&'static str, f64)],
    /// Seconds spent in this stage, earlier sessions included.
    pub seconds: f64,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every step was done.
    Finished,
    /// The observer asked to stop; a checkpoint was written.
    Stopped,
}

/// Where a run keeps a stage's checkpoint.
pub fn checkpoint_folder(run: &Path, stage: &str) -> PathBuf {
    run.join("checkpoints").join(stage)
}

/// Runs a stage from its newest checkpoint, if there is one, to the end.
///
/// # Errors
///
/// [`Error::Diverged`] at the first loss that is not finite, before a checkpoint could record it;
/// otherwise what the stage or the file system returns.
pub fn run(
    stage: &mut dyn Stage,
    pace: &Pace,
    folder: &Path,
    observer: &mut dyn Observer,
) -> Result<Outcome, Error> {
    let home = checkpoint_folder(folder, stage.name());
    let (mut step, mut before) = (0, 0.0);
    if let Some(checkpoint) = newest(&home) {
        let state: RunState = dmd_weights::read_json(&checkpoint.join("state.json"))?;
        stage.load(&checkpoint, &state)?;
        (step, before) = (state.step, state.seconds);
    }
    forget_after(folder, stage.name(), step)?;
    let start = Instant::now();
    let save = |stage: &dyn Stage, step: usize, seconds: f64| {
        set_aside(&home, pace.keep)?;
        replace_folder(&home, |fresh| {
            stage.save(fresh)?;
            let state = stage.state(step, seconds);
            Ok(dmd_weights::write_json(&fresh.join("state.json"), &state)?)
        })
    };
    let mut saved = step;
    let mut alarmed: Vec<&'static str> = Vec::new();
    while step < pace.steps {
        let losses = stage.step(step)?;
        step += 1;
        for (term, value) in &losses {
            if !value.is_finite() {
                let (term, value) = (*term, *value);
                return Err(Error::Diverged { step, term, value, checkpoint: newest(&home), saved });
            }
            if !report::healthy(term, *value) && !alarmed.contains(term) {
                alarmed.push(*term);
                let figure = format!("{}: {term}", stage.name());
                observer.on_alarm(&Alarm { figure, step: step as u64, value: *value });
            }
        }
        let seconds = before + start.elapsed().as_secs_f64();
        let report = StepReport { stage: stage.name(), step, steps: pace.steps, losses: &losses, seconds };
        observer.on_step(&report);
        let last = step == pace.steps;
        if last || step.is_multiple_of(pace.log_every.max(1)) {
            append_metrics(folder, &report)?;
        }
        if last || step.is_multiple_of(pace.grid_every.max(1)) {
            let name = format!("{}-{step:06}.png", stage.name());
            let probe = stage.probe()?;
            if !probe.pictures.is_empty() {
                dmd_data::save(&grid(&probe.pictures, 8), &folder.join("grids").join(name))?;
            }
            if !probe.figures.is_empty() {
                append_metrics(folder, &StepReport { losses: &probe.figures, ..report })?;
            }
        }
        let stopped = observer.stopped();
        if last || stopped || step.is_multiple_of(pace.checkpoint_every.max(1)) {
            save(stage, step, seconds)?;
            saved = step;
        }
        if stopped && !last {
            return Ok(Outcome::Stopped);
        }
    }
    if saved != step {
        save(stage, step, before + start.elapsed().as_secs_f64())?;
    }
    Ok(Outcome::Finished)
}

/// Drops what `metrics.jsonl` says of steps that the checkpoint does not have, and a line that was cut
/// while it was written: they are done, and logged, again.
fn forget_after(folder: &Path, stage: &str, step: usize) -> Result<(), Error> {
    let path = folder.join("metrics.jsonl");
    let Ok(text) = fs::read_to_string(&path) else {
        return Ok(()); // nothing was logged yet
    };
    let keeps = |line: &&str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let at = line["step"].as_u64();
        line["stage"] != stage && at.is_some() || at.is_some_and(|at| at <= step as u64)
    };
    let kept: String = text.lines().filter(keeps).map(|line| format!("{line}\n")).collect();
    if kept != text {
        dmd_weights::write_atomic(&path, kept.as_bytes())?;
    }
    Ok(())
}

/// Memory of this process, where the system tells: Linux does.
fn resident_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn append_metrics(folder: &Path, report: &StepReport<'_>) -> Result<(), Error> {
    let path = folder.join("metrics.jsonl");
    let mut line = serde_json::Map::new();
    line.insert("stage".to_owned(), report.stage.into());
    line.insert("step".to_owned(), report.step.into());
    line.insert("seconds".to_owned(), report.seconds.into());
    if let Some(bytes) = resident_memory() {
        line.insert("memory_gib".to_owned(), (bytes as f64 / f64::from(1 << 30)).into());
    }
    for (name, value) in report.losses {
        line.insert((*name).to_owned(), (*value).into());
    }
    let text = format!("{}\n", serde_json::Value::Object(line));
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::OpenOptions::new().create(true).append(true).open(&path))
        .and_then(|mut file| file.write_all(text.as_bytes()));
    Ok(written.map_err(|source| dmd_weights::Error::Write { path, source })?)
}
