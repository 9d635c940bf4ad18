//! Checkpoints of a run's stages, each a folder that is always whole.

use std::fs;
use std::path::{Path, PathBuf};

use dmd_core::Noise;
use dmd_weights::WholeFolder;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::fingerprint::Fingerprint;
use crate::run::Stage;

/// Where a run stands, beside the tensors: `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunState {
    /// Optimiser steps done.
    pub(crate) step: usize,
    /// Seconds spent in training so far.
    pub(crate) seconds: f64,
    /// Position of the random stream, as a decimal number.
    noise: String,
    /// What the training depends on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made_from: Option<Fingerprint>,
}

impl RunState {
    /// The state of a stage after `step` steps.
    pub(crate) fn of(stage: &mut dyn Stage, step: usize, seconds: f64) -> Self {
        let noise = stage.noise().position().to_string();
        Self { step, seconds, noise, made_from: Some(stage.made_from()) }
    }

    /// The state of a checkpoint.
    pub(crate) fn read(checkpoint: &Path) -> Result<Self, Error> {
        Ok(dmd_weights::read_json(&checkpoint.join("state.json"))?)
    }

    /// Moves a random stream to the recorded position.
    pub(crate) fn seek(&self, noise: &mut Noise, checkpoint: &Path) -> Result<(), Error> {
        let position = self.noise.parse().map_err(|error| Error::Checkpoint {
            path: checkpoint.to_owned(),
            reason: format!("position {:?} of the random stream: {error}", self.noise),
        })?;
        noise.seek(position);
        Ok(())
    }

    /// Checks that the checkpoint was made from the present settings.
    pub(crate) fn check(&self, checkpoint: &Path, made_from: &Fingerprint) -> Result<(), Error> {
        let path = checkpoint.to_owned();
        let Some(earlier) = &self.made_from else {
            let reason =
                "it does not record what it was made from; train into another output folder".to_owned();
            return Err(Error::Checkpoint { path, reason });
        };
        match made_from.difference(earlier) {
            None => Ok(()),
            Some((name, was, is)) => Err(Error::Changed { path, name, was, is }),
        }
    }
}

/// Where a run keeps a stage's checkpoint.
pub(crate) fn checkpoint_folder(run: &Path, stage: &str) -> PathBuf {
    run.join("checkpoints").join(stage)
}

/// Whether a run has a whole checkpoint of a stage.
pub fn has_checkpoint(run: &Path, stage: &str) -> bool {
    newest(run, stage).is_some()
}

/// Checks that a run's checkpoint of a stage, if one exists, was made from the present settings: before anything of the
/// run is written.
///
/// # Errors
///
/// [`Error::Changed`] when it was made from others, [`Error::Weights`] when it cannot be read.
pub fn check_resumable(run: &Path, stage: &str, made_from: &Fingerprint) -> Result<(), Error> {
    let Some(checkpoint) = newest(run, stage) else {
        return Ok(());
    };
    RunState::read(&checkpoint)?.check(&checkpoint, made_from)
}

/// The newest whole checkpoint of a stage, if there is one.
pub(crate) fn newest(run: &Path, stage: &str) -> Option<PathBuf> {
    WholeFolder::new(checkpoint_folder(run, stage)).newest()
}

/// A run's checkpoint of a stage, and after how many steps it was written: the newest, or the one of a step that was kept.
///
/// # Errors
///
/// [`Error::Checkpoint`] naming the steps there are.
pub(crate) fn at_step(run: &Path, stage: &str, step: Option<usize>) -> Result<(PathBuf, usize), Error> {
    let home = checkpoint_folder(run, stage);
    let kept = older(&home, stage).into_iter().filter_map(|folder| folder.newest());
    let mut steps = Vec::new();
    for folder in newest(run, stage).into_iter().chain(kept) {
        let at = RunState::read(&folder)?.step;
        if step.is_none_or(|step| step == at) {
            return Ok((folder, at));
        }
        steps.push(at.to_string());
    }
    let reason = match (step, steps.is_empty()) {
        (Some(step), false) => {
            format!("no checkpoint of step {step}; there are those of the steps {}", steps.join(", "))
        }
        _ => "no checkpoint yet".to_owned(),
    };
    Err(Error::Checkpoint { path: home, reason })
}

/// Writes a stage's checkpoint in place of the last one, of which at most `keep - 1` stay under their step's number.
pub(crate) fn write(run: &Path, stage: &mut dyn Stage, state: &RunState, keep: usize) -> Result<(), Error> {
    let home = checkpoint_folder(run, stage.name());
    set_aside(run, stage.name(), keep)?;
    WholeFolder::new(home).replace(|fresh| {
        stage.save(fresh)?;
        Ok(dmd_weights::write_json(&fresh.join("state.json"), state)?)
    })
}

/// Keeps the checkpoint of a stage under its step's number before a new one takes its place.
fn set_aside(run: &Path, stage: &str, keep: usize) -> Result<(), Error> {
    let home = checkpoint_folder(run, stage);
    // What a killed process left of earlier ones is not looked at again otherwise.
    older(&home, stage).iter().try_for_each(WholeFolder::settle)?;
    if keep > 1
        && let Some(current) = newest(run, stage)
    {
        let step = RunState::read(&current)?.step;
        let aside = WholeFolder::new(home.with_file_name(format!("{stage}-{step:08}")));
        if aside.newest().is_none() {
            aside.replace(|fresh| link_all(&current, fresh))?;
        }
    }
    let older = older(&home, stage);
    let surplus = older.len().saturating_sub(keep.saturating_sub(1));
    Ok(older[..surplus].iter().try_for_each(WholeFolder::remove)?)
}

/// Gives the files of a checkpoint a second name where the file system has that, for checkpoints never change; else
/// copies them.
fn link_all(from: &Path, into: &Path) -> Result<(), Error> {
    let failed = |source| Error::from(dmd_weights::Error::Write { path: into.to_owned(), source });
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let to = into.join(entry.file_name());
        fs::hard_link(entry.path(), &to)
            .or_else(|_| fs::copy(entry.path(), &to).map(|_| ()))
            .map_err(failed)?;
    }
    Ok(())
}

/// The checkpoints of a stage that are named by their step, the oldest first, whole or not.
fn older(home: &Path, stage: &str) -> Vec<WholeFolder> {
    let entries = home.parent().and_then(|parent| fs::read_dir(parent).ok());
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let name = name.strip_suffix(".part").or(name.strip_suffix(".next")).unwrap_or(&name);
            let step = name.strip_prefix(stage)?.strip_prefix('-')?;
            let is_step = step.len() == 8 && step.bytes().all(|b| b.is_ascii_digit());
            is_step.then(|| name.to_owned())
        })
        .collect();
    names.sort();
    names.dedup();
    names.into_iter().map(|name| WholeFolder::new(home.with_file_name(name))).collect()
}
