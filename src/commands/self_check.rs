use std::panic;
use std::time::Duration;

use anyhow::ensure;
use burn::tensor::FloatDType;
use clap::Args;
use dmd_infer::self_check::{Check, Checked, Outcome, self_check as run};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{DtypeArgs, JsonArgs, ModelArgs, PartsArgs, print_opening, progress};
use crate::console::{bar_target, say};

/// Check that a device computes a model as the CPU does, operation by operation; also compiles and tunes its kernels
#[derive(Debug, Args)]
pub(crate) struct SelfCheckArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    dtype: DtypeArgs,
    #[command(flatten)]
    parts: PartsArgs,
    /// Print every check, not only the failed ones and those with the largest errors
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    print: JsonArgs,
}

/// Checks shown when everything is right.
const SHOWN: usize = 5;

pub(crate) fn self_check(args: &SelfCheckArgs) -> anyhow::Result<()> {
    let options = args.parts.options(&args.model, args.dtype)?;
    let folder = &options.model;
    let reference = dmd_kernels::device::open("flex")?;
    let bar = ProgressBar::with_draw_target(None, bar_target());
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {wide_msg}")?);
    // A kernel that cannot be built panics: it is reported as a failed check, without the backend's own trace.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let checked = run(&options, &reference, &mut |check, total| {
        bar.set_length(total as u64);
        bar.inc(1);
        bar.set_message(check.what.clone());
        progress::at(format!("{} of {total} checks, the last of {}", bar.position(), check.what));
    });
    panic::set_hook(hook);
    bar.finish_and_clear();
    let Checked { checks: mut all, notes } = checked?;
    print_opening(&notes);

    let times = |pick: fn(&Check) -> Duration| all.iter().map(pick).sum::<Duration>().as_secs_f64();
    let (first, warm) = (times(|check| time(check).0), times(|check| time(check).1));
    let wrong = all.iter().filter(|check| !check.passed()).count();
    let total = all.len();
    // The worst first, by how much of what is allowed was needed.
    all.sort_by(|a, b| share(b).total_cmp(&share(a)));
    let shown = if args.all { total } else { SHOWN.max(wrong) };
    if args.print.json {
        all.iter().for_each(print_json);
    } else {
        say!("{:>9} {:>9} {:>10} {:>9}  check", "error", "allowed", "first ms", "warm ms");
        all.iter().take(shown).for_each(print);
        if shown < total {
            say!("and {} more, all with smaller errors (--all shows them)", total - shown);
        }
        say!("first runs {first:.1} s, with compilation and tuning; warm {warm:.1} s");
    }
    let (name, dtype) = (args.model.device_name(), args.dtype.name());
    ensure!(
        wrong == 0,
        "{name} is wrong in {wrong} of {total} checks of {folder:?} in {dtype}: do not trust its pictures"
    );
    if args.print.json {
        return Ok(());
    }
    say!("{name} computes {folder:?} in {dtype} as the CPU does: {total} of {total} checks");
    if args.dtype.float() == FloatDType::F32 && name == "flex" {
        say!("(flex is the reference itself; ask for another with --device)");
    }
    Ok(())
}

fn time(check: &Check) -> (Duration, Duration) {
    match &check.outcome {
        Outcome::Compared(found) => (found.first, found.warm),
        Outcome::Failed { .. } => Default::default(),
    }
}

/// The error as a share of what is allowed.
fn share(check: &Check) -> f64 {
    match &check.outcome {
        Outcome::Compared(found) => found.relative / found.allowed,
        Outcome::Failed { .. } => f64::INFINITY,
    }
}

/// All checks, the worst first.
fn print_json(check: &Check) {
    let (passed, what, count) = (check.passed(), &check.what, check.count);
    let line = match &check.outcome {
        Outcome::Compared(found) => json!({
            "check": what, "count": count, "passed": passed, "error": found.relative, "allowed": found.allowed,
            "first_ms": found.first.as_secs_f64() * 1e3, "warm_ms": found.warm.as_secs_f64() * 1e3,
        }),
        Outcome::Failed { reason } => {
            json!({"check": what, "count": count, "passed": passed, "reason": reason})
        }
    };
    say!("{line}");
}

fn print(check: &Check) {
    let verdict = if check.passed() { "" } else { "WRONG " };
    match &check.outcome {
        Outcome::Compared(found) => say!(
            "{:>9.1e} {:>9.1e} {:>10.2} {:>9.2}  {verdict}{} (× {})",
            found.relative,
            found.allowed,
            found.first.as_secs_f64() * 1e3,
            found.warm.as_secs_f64() * 1e3,
            check.what,
            check.count
        ),
        Outcome::Failed { reason } => {
            let reason = reason.lines().next().unwrap_or_default();
            say!("{:>9} {:>9} {:>10} {:>9}  {verdict}{}: {reason}", "-", "-", "-", "-", check.what);
        }
    }
}
