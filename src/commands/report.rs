use std::path::PathBuf;

use clap::Args;
use dmd_train::report::Report;
use dmd_weights::write_atomic;

use crate::console::say;

/// Render a training run's curves and grids into one HTML page
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The run's folder, the `output` of its configuration
    run: PathBuf,
    /// HTML file to write [default: report.html in the run's folder]
    #[arg(long)]
    out: Option<PathBuf>,
}

pub(crate) fn report(args: &ReportArgs) -> anyhow::Result<()> {
    let report = Report::read(&args.run)?;
    let out = args.out.clone().unwrap_or_else(|| args.run.join("report.html"));
    write_atomic(&out, report.html(&args.run.display().to_string())?.as_bytes())?;
    for alarm in report.alarms() {
        say!("{} is {:.3} at step {}: outside its band", alarm.figure, alarm.value, alarm.step);
    }
    say!("wrote {}", out.display());
    Ok(())
}
