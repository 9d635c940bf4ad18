//! `metrics.jsonl`: one object per logged step.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::Error;
use crate::run::StepReport;

/// Drops what `metrics.jsonl` holds of steps that the checkpoint does not have, and a line that was cut
/// while it was written: these steps are done, and logged, again.
pub(crate) fn forget_after(folder: &Path, stage: &str, step: usize) -> Result<(), Error> {
    let path = folder.join("metrics.jsonl");
    let Ok(bytes) = fs::read(&path) else {
        return Ok(()); // nothing was logged yet
    };
    let text = String::from_utf8_lossy(&bytes);
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

/// Memory of this process, where the system reports it: Linux does.
fn resident_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Adds a line.
pub(crate) fn append(folder: &Path, report: &StepReport<'_>) -> Result<(), Error> {
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
