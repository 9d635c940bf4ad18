//! `metrics.jsonl`: one object per logged step.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Error;

/// The file of a run.
pub(crate) fn path(run: &Path) -> PathBuf {
    run.join("metrics.jsonl")
}

/// A line that was read.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) stage: String,
    pub(crate) step: u64,
    /// Whatever else is a number.
    pub(crate) figures: Vec<(String, f64)>,
}

impl Entry {
    fn parse(line: &[u8]) -> Option<Self> {
        let Ok(Value::Object(line)) = serde_json::from_slice(line) else { return None };
        let (stage, step) = (line.get("stage")?.as_str()?.to_owned(), line.get("step")?.as_u64()?);
        let numbers = line.into_iter().filter(|(name, _)| name != "step");
        let figures = numbers.filter_map(|(name, value)| Some((name, value.as_f64()?))).collect();
        Some(Self { stage, step, figures })
    }
}

/// Calls a function with the bytes of every line of a file, and with what they say; `None` where they cannot be read.
pub(crate) fn read(file: &Path, mut each: impl FnMut(&[u8], Option<Entry>)) -> io::Result<()> {
    let mut reader = BufReader::new(fs::File::open(file)?);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        each(&line, Entry::parse(&line));
        line.clear();
    }
    Ok(())
}

/// Drops what `metrics.jsonl` holds of steps that the checkpoint does not have, and a line that was cut
/// while it was written: these steps are done, and logged, again. Calls a function with every line that stays.
pub(crate) fn forget_after(
    folder: &Path,
    stage: &str,
    step: usize,
    mut kept: impl FnMut(&Entry),
) -> Result<(), Error> {
    let path = path(folder);
    if !path.exists() {
        return Ok(()); // nothing was logged yet
    }
    let (mut text, mut changed) = (Vec::new(), false);
    let all = read(&path, |line, entry| {
        let Some(entry) = entry.filter(|entry| entry.stage != stage || entry.step <= step as u64) else {
            changed = true;
            return;
        };
        kept(&entry);
        text.extend_from_slice(line);
        if !line.ends_with(b"\n") {
            text.push(b'\n');
            changed = true;
        }
    });
    all.map_err(|source| dmd_weights::Error::Read { path: path.clone(), source })?;
    if changed {
        dmd_weights::write_atomic(&path, &text)?;
    }
    Ok(())
}

/// Adds a line: the step of a stage, the seconds spent in it, and figures.
pub(crate) fn append(
    folder: &Path,
    (stage, step): (&str, usize),
    seconds: f64,
    figures: &[(&'static str, f64)],
) -> Result<(), Error> {
    let path = path(folder);
    let mut line = serde_json::Map::new();
    line.insert("stage".to_owned(), stage.into());
    line.insert("step".to_owned(), step.into());
    line.insert("seconds".to_owned(), seconds.into());
    for (name, value) in figures {
        line.insert((*name).to_owned(), (*value).into());
    }
    let text = format!("{}\n", Value::Object(line));
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::OpenOptions::new().create(true).append(true).open(&path))
        .and_then(|mut file| file.write_all(text.as_bytes()));
    Ok(written.map_err(|source| dmd_weights::Error::Write { path, source })?)
}
