use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use dmd_train::report::{self, Report};
use dmd_weights::write_atomic;

use crate::console::{note, say};

/// Render the plots and grids of a training run, or of several side by side, into one HTML page
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Folders of runs, each the `output` of its configuration, e.g. runs/a runs/b
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// HTML file to write [default: report.html in the run's folder; for several runs, in the current folder]
    #[arg(long)]
    out: Option<PathBuf>,
}

pub(crate) fn report(args: &ReportArgs) -> anyhow::Result<()> {
    ensure!(
        args.runs.len() <= report::RUNS,
        "a page shows at most {} runs side by side, not {}",
        report::RUNS,
        args.runs.len()
    );
    let mut runs = Vec::with_capacity(args.runs.len());
    for run in &args.runs {
        let report = Report::read(run)?;
        if report.unreadable() > 0 {
            note!("{} lines of {}'s metrics.jsonl cannot be read", report.unreadable(), run.display());
        }
        for alarm in report.alarms() {
            match args.runs.len() {
                1 => say!("{alarm}"),
                _ => say!("{}: {alarm}", run.display()),
            }
        }
        runs.push(report);
    }
    let beside = || match args.runs.as_slice() {
        [run] => run.join("report.html"),
        _ => PathBuf::from("report.html"),
    };
    let out = args.out.clone().unwrap_or_else(beside);
    write_atomic(&out, report::page(&runs)?.as_bytes())?;
    say!("wrote {}", out.display());
    Ok(())
}
