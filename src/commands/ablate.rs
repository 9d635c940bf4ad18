use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use burn::tensor::Device;
use clap::Args;
use dmd_train::Error;
use dmd_train::ablation::{Effort, Experiment, PictureFolder, Row, Table, tables};
use dmd_weights::write_atomic;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use super::bench::{Part, median};
use super::embedded_model;
use crate::console::{say, say_part};

/// The papers' ablations in the small: train every variant of the losses on toys, write tables
#[derive(Debug, Args)]
pub(crate) struct AblateArgs {
    /// Tables to make, e.g. m1,m4; all by default
    #[arg(long, value_delimiter = ',')]
    tables: Vec<String>,
    /// Seeds per row
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Train this seed's rows alone: several machines can share the seeds and join their results.jsonl
    #[arg(long)]
    only_seed: Option<u64>,
    /// Generator updates instead of each table's own number
    #[arg(long)]
    updates: Option<usize>,
    /// Training steps of the teachers instead of each table's own number
    #[arg(long)]
    teacher_steps: Option<usize>,
    /// Model folder for the table m9 of latencies [default: the embedded model]
    #[arg(long)]
    model: Option<PathBuf>,
    /// Folder of pictures for the table `pictures`: metadata.jsonl, each caption a class
    #[arg(long)]
    pictures: Option<PathBuf>,
    /// Height and width the folder's pictures are resized to
    #[arg(long, default_value_t = 8)]
    size: u32,
    /// Device to train on
    #[arg(long, default_value = "flex")]
    device: String,
    /// Folder of the results; rows that are already in its results.jsonl are not trained again
    #[arg(long, default_value = "ablations")]
    out: PathBuf,
}

/// One measured row; a figure that is not finite is none.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Measured {
    experiment: String,
    row: String,
    seed: u64,
    updates: usize,
    teacher_steps: usize,
    figures: Vec<(String, Option<f64>)>,
}

impl Measured {
    fn figure(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|(found, _)| found == name).and_then(|(_, value)| *value)
    }
}

pub(crate) fn ablate(args: &AblateArgs) -> anyhow::Result<()> {
    ensure!(args.seeds > 0, "--seeds 0: nothing to train");
    let device = dmd_kernels::device::open(&args.device)?;
    let all = tables();
    let known: Vec<&str> = all.iter().map(|table| table.id).chain([LATENCY]).collect();
    for asked in &args.tables {
        ensure!(
            known.contains(&asked.as_str()),
            "there is no table {asked:?}; there are {}",
            known.join(", ")
        );
    }
    let folder = args.pictures.clone().map(|path| PictureFolder { path, size: args.size });
    let asked = |table: &&Table| match args.tables.is_empty() {
        true => table.experiment != Experiment::Folder || folder.is_some(),
        false => args.tables.iter().any(|id| id == table.id),
    };
    let chosen: Vec<&Table> = all.iter().filter(asked).collect();
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {:?}", args.out))?;
    let path = args.out.join("results.jsonl");
    let mut results = read(&path)?;

    // Experiments that several tables share are run once.
    let mut experiments = Vec::new();
    for table in &chosen {
        if !experiments.contains(&table.experiment) {
            experiments.push(table.experiment);
        }
    }
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {elapsed} {msg}")?);
    for experiment in experiments {
        let own = experiment.effort();
        let effort = Effort {
            updates: args.updates.unwrap_or(own.updates),
            teacher_steps: args.teacher_steps.unwrap_or(own.teacher_steps),
            ..own
        };
        let mut rows: Vec<Row> = Vec::new();
        for row in chosen.iter().filter(|table| table.experiment == experiment).flat_map(|t| &t.rows) {
            if !rows.contains(row) {
                rows.push(*row);
            }
        }
        for seed in args.only_seed.map_or(0..args.seeds, |seed| seed..seed + 1) {
            let there =
                |row: &Row| results.iter().any(|found| is(found, experiment.name(), row, seed, &effort));
            let missing: Vec<Row> = rows.iter().filter(|row| !there(row)).copied().collect();
            if missing.is_empty() {
                continue;
            }
            bar.set_message(format!(
                "{}, seed {seed}: teacher and {} rows",
                experiment.name(),
                missing.len()
            ));
            experiment.run(folder.as_ref(), &missing, &effort, seed, &device, &mut |row, figures| {
                let measured = Measured {
                    experiment: experiment.name().to_owned(),
                    row: row.name().to_owned(),
                    seed,
                    updates: effort.updates,
                    teacher_steps: effort.teacher_steps,
                    figures: figures
                        .iter()
                        .map(|f| (f.name.to_owned(), f.value.is_finite().then_some(f.value)))
                        .collect(),
                };
                append(&path, &measured)?;
                bar.println(format!("{}, seed {seed}: {}", experiment.name(), row.name()));
                bar.tick();
                results.push(measured);
                Ok(())
            })?;
        }
    }
    bar.finish_and_clear();
    let mut page = String::new();
    for table in chosen {
        let own = table.experiment.effort();
        let effort = Effort {
            updates: args.updates.unwrap_or(own.updates),
            teacher_steps: args.teacher_steps.unwrap_or(own.teacher_steps),
            ..own
        };
        write_table(&mut page, table, &results, args.seeds, &effort)?;
    }
    if args.tables.is_empty() || args.tables.iter().any(|id| id == LATENCY) {
        let model = args.model.clone().unwrap_or_else(embedded_model);
        write_latency(&mut page, &model, &device)?;
    }
    let tables = args.out.join("tables.md");
    write_atomic(&tables, page.as_bytes())?;
    say_part!("{page}");
    say!("wrote {}", tables.display());
    Ok(())
}

/// The table that is timed, not trained.
const LATENCY: &str = "m9";
/// Timed runs of its parts.
const TIMED: usize = 20;

/// M9: what one network call instead of a hundred makes of the wall clock.
fn write_latency(page: &mut String, model: &Path, device: &Device) -> anyhow::Result<()> {
    let of = |part| median(model, part, TIMED, device);
    let (call, guided) = (of(Part::Unet)?, of(Part::Guided)?);
    let around = of(Part::Text)? + of(Part::Decode)?;
    let (one, fifty) = (of(Part::Picture)?, of(Part::Teacher)?);
    // Guidance encodes the empty prompt too; it is part of what goes around the calls.
    let (one_expected, fifty_expected) = (call + around, 50.0 * guided + around);
    let name = model.file_name().unwrap_or_default().to_string_lossy();
    writeln!(page, "## M9: Network calls and the wall clock (DMD, section 4)\n")?;
    writeln!(
        page,
        "{name}, medians of {TIMED} runs: c = {call:.2} ms per call of the UNet, g = {guided:.2} ms per guided call (two branches), o = {around:.2} ms around them (text and decoding).\n"
    )?;
    writeln!(page, "| picture | calls | expected ms | measured ms |\n| --- | --- | --- | --- |")?;
    writeln!(page, "| one step | 1 | c + o = {one_expected:.1} | {one:.1} |")?;
    writeln!(page, "| teacher, 50 guided steps | 100 | 50 g + o = {fifty_expected:.1} | {fifty:.1} |")?;
    writeln!(page, "| ratio | 100 | {:.1} | {:.1} |\n", fifty_expected / one_expected, fifty / one)?;
    Ok(())
}

fn is(found: &Measured, experiment: &str, row: &Row, seed: u64, effort: &Effort) -> bool {
    found.experiment == experiment
        && found.row == row.name()
        && found.seed == seed
        && found.updates == effort.updates
        && found.teacher_steps == effort.teacher_steps
}

/// The rows of an earlier call; a line that was cut while it was written is made again.
fn read(path: &Path) -> anyhow::Result<Vec<Measured>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {path:?}")),
    }
}

fn append(path: &Path, measured: &Measured) -> Result<(), Error> {
    let failed = |source| dmd_weights::Error::Write { path: path.to_owned(), source };
    let line = serde_json::to_string(measured).map_err(|error| failed(error.into()))?;
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
    Ok(writeln!(file, "{line}").map_err(failed)?)
}

/// A table in Markdown, the seeds of each figure beside each other, and what was expected of it.
fn write_table(
    page: &mut String,
    table: &Table,
    results: &[Measured],
    seeds: u64,
    effort: &Effort,
) -> std::fmt::Result {
    let found = |row: &Row, seed| results.iter().find(|r| is(r, table.experiment.name(), row, seed, effort));
    let mut columns: Vec<String> = Vec::new();
    for row in &table.rows {
        for (name, _) in found(row, 0).iter().flat_map(|r| &r.figures) {
            if !columns.contains(name) {
                columns.push(name.clone());
            }
        }
    }
    writeln!(page, "## {}: {}\n", table.id.to_uppercase(), table.title)?;
    writeln!(
        page,
        "{}, {} updates of {} samples, {seeds} seeds.\n",
        table.experiment.name(),
        effort.updates,
        effort.batch
    )?;
    writeln!(page, "| variant | {} |\n| --- |{}", columns.join(" | "), " --- |".repeat(columns.len()))?;
    for row in &table.rows {
        write!(page, "| {} |", row.name())?;
        for column in &columns {
            let each: Vec<String> = (0..seeds)
                .map(|seed| match found(row, seed).and_then(|r| r.figure(column)) {
                    Some(value) => short(value),
                    None => "–".to_owned(),
                })
                .collect();
            let shown =
                if each.iter().all(|value| value == "–") { "–".to_owned() } else { each.join(" / ") };
            write!(page, " {shown} |")?;
        }
        writeln!(page)?;
    }
    writeln!(page, "\n| expected | seeds in which it came out |\n| --- | --- |")?;
    for claim in &table.claims {
        let mut held = 0;
        for seed in 0..seeds {
            let by_name: BTreeMap<&str, &Measured> =
                table.rows.iter().filter_map(|row| Some((row.name(), found(row, seed)?))).collect();
            let lookup =
                |row: &str, column: &str| by_name.get(row).and_then(|r| r.figure(column)).unwrap_or(f64::NAN);
            held += usize::from((claim.holds)(&lookup));
        }
        writeln!(page, "| {} | {held} of {seeds} |", claim.text)?;
    }
    writeln!(page)
}

/// Three digits that matter, without an exponent.
fn short(value: f64) -> String {
    let size = value.abs();
    if value.fract() == 0.0 && size < 1e6 {
        format!("{value:.0}")
    } else if size < 1.0 {
        format!("{value:.3}")
    } else if size < 10.0 {
        format!("{value:.2}")
    } else if size < 1e4 {
        format!("{value:.0}")
    } else {
        format!("{value:.1e}")
    }
}
