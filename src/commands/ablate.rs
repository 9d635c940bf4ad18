use std::fmt::Write;
use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use dmd_train::ring::{self, Figures, Variant};
use dmd_weights::write_atomic;
use indicatif::{ProgressBar, ProgressStyle};

/// The papers' loss ablations in the small: train every variant on a ring of Gaussians, write a table
#[derive(Debug, Args)]
pub(crate) struct AblateArgs {
    /// Seeds per row
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Generator updates
    #[arg(long, default_value_t = 2500)]
    updates: usize,
    /// Training steps of the teacher
    #[arg(long, default_value_t = 6000)]
    teacher_steps: usize,
    /// Device to train on
    #[arg(long, default_value = "flex")]
    device: String,
    /// Markdown file to write
    #[arg(long, default_value = "ablations.md")]
    out: PathBuf,
}

pub(crate) fn ablate(args: &AblateArgs) -> anyhow::Result<()> {
    ensure!(args.seeds > 0 && args.updates > 0 && args.teacher_steps > 0, "nothing to train: a count is 0");
    let device = dmd_core::device::open(&args.device)?;
    let variants = Variant::all();
    let bar = ProgressBar::new(args.seeds * (variants.len() as u64 + 1));
    bar.set_style(ProgressStyle::with_template("{bar:24} {pos}/{len} {eta} left  {msg}")?);
    let mut teachers = Vec::new();
    let mut rows: Vec<Vec<Figures>> = vec![Vec::new(); variants.len()];
    for seed in 0..args.seeds {
        bar.set_message(format!("seed {seed}: teacher"));
        device.seed(seed);
        let teacher = ring::teacher(seed, args.teacher_steps, &device);
        teachers.push(ring::teacher_figures(&teacher, &device));
        bar.inc(1);
        for (variant, row) in variants.iter().zip(&mut rows) {
            bar.set_message(format!("seed {seed}: {}", variant.name));
            row.push(ring::distil(&teacher, variant, seed, args.updates, &device));
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let mut table = String::from(
        "| variant | modes | sharp | energy distance × 1000 | jitter × 1000 |\n| --- | --- | --- | --- | --- |\n",
    );
    write_row(&mut table, "teacher, Heun 18", &teachers)?;
    for (variant, row) in variants.iter().zip(&rows) {
        write_row(&mut table, variant.name, row)?;
    }
    write_atomic(&args.out, table.as_bytes())?;
    print!("{table}");
    println!("{} generator updates, {} seeds; wrote {}", args.updates, args.seeds, args.out.display());
    Ok(())
}

/// One line of the table, the seeds beside each other.
fn write_row(table: &mut String, name: &str, row: &[Figures]) -> std::fmt::Result {
    let each = |show: &dyn Fn(&Figures) -> String| row.iter().map(show).collect::<Vec<_>>().join(" / ");
    writeln!(
        table,
        "| {name} | {} | {} | {} | {} |",
        each(&|f| f.modes.to_string()),
        each(&|f| format!("{:.3}", f.sharp)),
        each(&|f| format!("{:.2}", f.energy)),
        each(&|f| format!("{:.0}", f.jitter))
    )
}
