//! A progress bar for training, and Ctrl-C as a request to stop.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use dmd_infer::{Progress as Drawing, Stage};
use dmd_train::report::Alarm;
use dmd_train::run::{Observer, StepReport};
use indicatif::{ProgressBar, ProgressStyle};

use crate::console::say_err;

static STOP: AtomicBool = AtomicBool::new(false);

/// Shows the losses, the speed and the time left of each stage.
pub(crate) struct Progress {
    bar: Option<(&'static str, ProgressBar)>,
}

impl Progress {
    /// A bar that ends cleanly on Ctrl-C; a second Ctrl-C ends the program at once.
    pub(crate) fn new() -> anyhow::Result<Self> {
        ctrlc::set_handler(|| {
            if STOP.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            say_err!("\nstopping after this step, with a checkpoint (again: at once)");
        })
        .context("cannot listen for Ctrl-C")?;
        Ok(Self { bar: None })
    }
}

impl Observer for Progress {
    fn on_step(&mut self, report: &StepReport<'_>) {
        if self.bar.as_ref().is_none_or(|(stage, _)| *stage != report.stage) {
            let style = "{prefix:14} {bar:24} {pos}/{len} {per_sec}, {eta} left  {msg}";
            let bar = ProgressBar::new(report.steps as u64).with_position(report.step as u64 - 1);
            let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style);
            bar.set_prefix(report.stage);
            bar.reset_eta();
            self.bar = Some((report.stage, bar));
        }
        if let Some((_, bar)) = &self.bar {
            let losses = report.losses.iter().map(|(name, value)| format!("{name} {value:.4}"));
            bar.set_message(losses.collect::<Vec<_>>().join("  "));
            bar.set_position(report.step as u64);
        }
    }

    fn on_alarm(&mut self, alarm: &Alarm) {
        let line = format!(
            "warning: {} is {:.3} at step {}, outside its band",
            alarm.figure, alarm.value, alarm.step
        );
        match &self.bar {
            Some((_, bar)) => bar.println(line),
            None => say_err!("{line}"),
        }
    }

    fn stopped(&self) -> bool {
        STOP.load(Ordering::SeqCst)
    }
}

/// The steps of a picture being drawn; nothing for a single one.
pub(crate) struct Steps {
    bar: ProgressBar,
}

impl Steps {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let bar = ProgressBar::hidden();
        bar.set_style(ProgressStyle::with_template("{msg} {bar:24} {pos}/{len} {eta} left")?);
        Ok(Self { bar })
    }
}

impl dmd_infer::Observer for Steps {
    fn on_stage(&mut self, stage: Stage) {
        if stage == Stage::Decoding {
            self.bar.finish_and_clear();
        }
    }

    fn on_step(&mut self, progress: &Drawing<'_>) {
        if progress.steps > 1 && progress.step == 1 {
            self.bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
            self.bar.set_message("drawing");
            self.bar.set_length(progress.steps as u64);
        }
        self.bar.set_position(progress.step as u64);
    }
}
