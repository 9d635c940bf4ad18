//! Trains every variant of the losses on toys and writes the papers' tables in the small.

mod page;
mod results;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use burn::tensor::Device;
use clap::Parser;
use dmd_ablations::experiment::Experiment;
use dmd_ablations::tables;
use dmd_ablations::tables::{Row, Table};
use dmd_ablations::training::Effort;
use dmd_data::{Dataset, ImageFolder};
use dmd_weights::write_atomic;
use indicatif::{ProgressBar, ProgressStyle};

use crate::page::Page;
use crate::results::{Key, Measured, Results};

/// The papers' ablations in the small: train every variant of the losses on toys, write tables
#[derive(Debug, Parser)]
struct Args {
    /// Tables to make, e.g. m1,m4; all by default
    #[arg(long, value_delimiter = ',')]
    tables: Vec<String>,
    /// Seeds per row
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Train and print this seed's rows alone: several machines can share the seeds and join their results.jsonl
    #[arg(long)]
    only_seed: Option<u64>,
    /// Generator updates instead of each table's own number
    #[arg(long)]
    updates: Option<usize>,
    /// Training steps of the teachers instead of each table's own number
    #[arg(long)]
    teacher_steps: Option<usize>,
    /// What `dmd bench --json --parts text,unet,guided,decode,picture,teacher` printed, for the table m9 of latencies
    #[arg(long)]
    latency: Option<PathBuf>,
    /// Folder of pictures for the table `pictures`: metadata.jsonl, each caption a class
    #[arg(long)]
    pictures: Option<PathBuf>,
    /// Height and width the folder's pictures are resized to
    #[arg(long, default_value_t = 8)]
    size: u32,
    /// Folder of digits of 32×32 pixels for the table `digits`, as scripts/digits.py --mnist writes it
    #[arg(long)]
    digits: Option<PathBuf>,
    /// Device to train on
    #[arg(long, default_value = "flex")]
    device: String,
    /// Folder of the results; rows that are already in its results.jsonl are not trained again
    #[arg(long, default_value = "ablations")]
    out: PathBuf,
}

/// Side of the digits.
const DIGITS: u32 = 32;

/// The table that is timed, not trained.
const LATENCY: &str = "m9";

impl Args {
    fn effort(&self, experiment: Experiment) -> Effort {
        let own = experiment.effort();
        Effort {
            updates: self.updates.unwrap_or(own.updates),
            teacher_steps: self.teacher_steps.unwrap_or(own.teacher_steps),
            ..own
        }
    }

    /// The folder of an experiment's pictures, and their size.
    fn folder(&self, experiment: Experiment) -> Option<(&PathBuf, u32)> {
        match experiment {
            Experiment::Folder => Some((self.pictures.as_ref()?, self.size)),
            Experiment::Digits => Some((self.digits.as_ref()?, DIGITS)),
            _ => None,
        }
    }

    fn seeds(&self) -> Vec<u64> {
        self.only_seed.map_or_else(|| (0..self.seeds).collect(), |seed| vec![seed])
    }

    /// The tables that are asked for and trained.
    fn tables(&self) -> anyhow::Result<Vec<Table>> {
        let all = tables();
        let known: Vec<&str> = all.iter().map(|table| table.id).chain([LATENCY]).collect();
        for asked in &self.tables {
            let known_one = known.contains(&asked.as_str());
            ensure!(known_one, "there is no table {asked:?}; there are {}", known.join(", "));
        }
        let asked = |table: &Table| match self.tables.is_empty() {
            true => !table.experiment.of_folder() || self.folder(table.experiment).is_some(),
            false => self.tables.iter().any(|id| id == table.id),
        };
        Ok(all.into_iter().filter(asked).collect())
    }
}

/// A folder of pictures and its fingerprint.
struct Folder {
    pictures: ImageFolder,
    fingerprint: String,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(args.seeds > 0, "--seeds 0: nothing to train");
    let latency_asked = args.tables.iter().any(|id| id == LATENCY);
    ensure!(
        !latency_asked || args.latency.is_some(),
        "the table {LATENCY} needs --latency FILE, what `dmd bench --json` printed"
    );
    let device = dmd_kernels::device::open(&args.device)?;
    let chosen = args.tables()?;
    let mut folders = Vec::new();
    for experiment in [Experiment::Folder, Experiment::Digits] {
        if let Some((path, size)) = args.folder(experiment) {
            let pictures = ImageFolder::open(path, size)?;
            folders.push((experiment, Folder { fingerprint: pictures.fingerprint(), pictures }));
        }
    }
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {:?}", args.out))?;
    let mut results = Results::read(args.out.join("results.jsonl"))?;
    train(&args, &chosen, &folders, &device, &mut results)?;

    let seeds = args.seeds();
    let writer = |experiment| Page {
        results: &results,
        seeds: &seeds,
        data: of(&folders, experiment).map(|folder| folder.fingerprint.as_str()),
    };
    let mut page = String::new();
    for table in &chosen {
        writer(table.experiment).table(&mut page, table, &args.effort(table.experiment))?;
    }
    if let Some(path) = args.latency.as_ref().filter(|_| latency_asked || args.tables.is_empty()) {
        page::latency(&mut page, path)?;
    }
    let tables = args.out.join("tables.md");
    write_atomic(&tables, page.as_bytes())?;
    print!("{page}");
    println!("wrote {}", tables.display());
    Ok(())
}

/// The folder of an experiment.
fn of(folders: &[(Experiment, Folder)], experiment: Experiment) -> Option<&Folder> {
    folders.iter().find(|(of, _)| *of == experiment).map(|(_, folder)| folder)
}

/// Trains the rows that are missing; experiments that several tables share are run once.
fn train(
    args: &Args,
    chosen: &[Table],
    folders: &[(Experiment, Folder)],
    device: &Device,
    results: &mut Results,
) -> anyhow::Result<()> {
    let mut experiments: Vec<(Experiment, Vec<Row>)> = Vec::new();
    for Table { experiment, rows, .. } in chosen {
        if experiments.iter().all(|(found, _)| found != experiment) {
            experiments.push((*experiment, Vec::new()));
        }
        let (_, all) = experiments.iter_mut().find(|(found, _)| found == experiment).context("just added")?;
        for row in rows {
            if !all.contains(row) {
                all.push(*row);
            }
        }
    }
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {elapsed} {msg}")?);
    for (experiment, rows) in experiments {
        let effort = args.effort(experiment);
        let folder = of(folders, experiment);
        let data = folder.map(|folder| folder.fingerprint.as_str());
        for seed in args.seeds() {
            let key = |row: &Row| Key::new(experiment, row, seed, &effort, data);
            let missing: Vec<Row> =
                rows.iter().filter(|row| results.find(&key(row)).is_none()).copied().collect();
            if missing.is_empty() {
                continue;
            }
            let (name, count) = (experiment.name(), missing.len());
            bar.set_message(format!("{name}, seed {seed}: teacher and {count} rows"));
            let pictures = folder.map(|folder| &folder.pictures);
            experiment.run(pictures, &missing, &effort, seed, device, &mut |row, figures| {
                results.add(Measured::new(key(row), figures))?;
                bar.println(format!("{name}, seed {seed}: {}", row.name()));
                bar.tick();
                Ok(())
            })?;
        }
    }
    bar.finish_and_clear();
    Ok(())
}
