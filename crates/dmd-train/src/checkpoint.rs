//! Checkpoints: a folder that is always whole. It is written beside its final name and renamed,
//! the previous one is kept until the new one stands.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dmd_core::Noise;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Where a run stands, beside the tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// Optimiser steps done.
    pub step: usize,
    /// Seconds spent in training so far.
    pub seconds: f64,
    /// Position of the random stream, as a decimal number.
    pub noise: String,
}

impl RunState {
    /// The state of a run after `step` steps.
    pub fn new(step: usize, seconds: f64, noise: &Noise) -> Self {
        Self { step, seconds, noise: noise.position().to_string() }
    }

    /// Moves a random stream to the recorded position.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] when the position is not a number.
    pub fn seek(&self, noise: &mut Noise, path: &Path) -> Result<(), Error> {
        let position = self.noise.parse().map_err(|error| Error::Checkpoint {
            path: path.to_owned(),
            reason: format!("position {:?} of the random stream: {error}", self.noise),
        })?;
        noise.seek(position);
        Ok(())
    }
}

fn sibling(folder: &Path, suffix: &str) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    folder.with_file_name(name)
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Replaces `folder` by what `fill` writes into an empty folder.
///
/// # Errors
///
/// What `fill` returns, or [`dmd_weights::Error::Write`]; the old folder then stays.
pub fn replace_folder(folder: &Path, fill: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    let failed = |source| dmd_weights::Error::Write { path: folder.to_owned(), source };
    let (fresh, old) = (sibling(folder, ".new"), sibling(folder, ".old"));
    absent_is_fine(fs::remove_dir_all(&fresh)).map_err(failed)?;
    fs::create_dir_all(&fresh).map_err(failed)?;
    fill(&fresh)?;
    absent_is_fine(fs::remove_dir_all(&old)).map_err(failed)?;
    absent_is_fine(fs::rename(folder, &old)).map_err(failed)?;
    fs::rename(&fresh, folder).map_err(failed)?;
    absent_is_fine(fs::remove_dir_all(&old)).map_err(failed)?;
    Ok(())
}

/// The newest whole checkpoint of `folder`, if there is one: the folder itself, or the previous
/// one when the run was cut off between the two renames.
pub fn newest(folder: &Path) -> Option<PathBuf> {
    [folder.to_owned(), sibling(folder, ".old")].into_iter().find(|path| path.join("state.json").is_file())
}

/// Keeps the checkpoint in `folder` under its step's number before a new one takes its place, and at most
/// `keep - 1` such older ones.
///
/// # Errors
///
/// [`dmd_weights::Error::Write`] when a folder cannot be copied or removed.
pub(crate) fn set_aside(folder: &Path, keep: usize) -> Result<(), Error> {
    let failed = |source| Error::from(dmd_weights::Error::Write { path: folder.to_owned(), source });
    let Some(parent) = folder.parent() else { return Ok(()) };
    let stage = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if keep > 1
        && let Some(current) = newest(folder)
    {
        let state: RunState = dmd_weights::read_json(&current.join("state.json"))?;
        let aside = sibling(folder, &format!("-{:08}", state.step));
        if !aside.exists() {
            replace_folder(&aside, |fresh| {
                for entry in fs::read_dir(&current).map_err(failed)?.flatten() {
                    let to = fresh.join(entry.file_name());
                    // A second name for the same bytes where the file system has that; checkpoints never change.
                    fs::hard_link(entry.path(), &to)
                        .or_else(|_| fs::copy(entry.path(), &to).map(|_| ()))
                        .map_err(failed)?;
                }
                Ok(())
            })?;
        }
    }
    let mut older: Vec<PathBuf> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let step = name.strip_prefix(&stage).and_then(|rest| rest.strip_prefix('-'));
            step.is_some_and(|step| step.len() == 8 && step.bytes().all(|b| b.is_ascii_digit()))
        })
        .map(|entry| entry.path())
        .collect();
    older.sort();
    let surplus = older.len().saturating_sub(keep.saturating_sub(1));
    for path in &older[..surplus] {
        fs::remove_dir_all(path).map_err(failed)?;
    }
    Ok(())
}
