//! The program `dmd`: a match over subcommands, each a file in `commands/`.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod commands;
mod console;
mod memory;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::console::say_err;

/// One-step text-to-image generation, and the distillation that makes it possible.
#[derive(Debug, Parser)]
#[command(name = "dmd", version)]
struct Cli {
    /// Threads on a CPU [default: RAYON_NUM_THREADS, else one per core]
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Generate(commands::generate::GenerateArgs),
    Compare(commands::compare::CompareArgs),
    Evaluate(commands::evaluate::EvaluateArgs),
    Teacher(commands::teacher::TeacherArgs),
    Pairs(commands::distill::PairsArgs),
    Distill(commands::distill::DistillArgs),
    Average(commands::average::AverageArgs),
    Report(commands::report::ReportArgs),
    Ablate(commands::ablate::AblateArgs),
    Bench(commands::bench::BenchArgs),
    Verify(commands::verify::VerifyArgs),
    SelfCheck(commands::self_check::SelfCheckArgs),
    Devices(commands::devices::DevicesArgs),
    Inspect(commands::inspect::InspectArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    memory::keep();
    if let Some(threads) = cli.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into());
        if let Err(error) = pool.build_global() {
            say_err!("error: cannot start {threads} threads: {error}");
            return ExitCode::FAILURE;
        }
    }
    let result = match cli.command {
        Command::Generate(args) => commands::generate::generate(&args),
        Command::Compare(args) => commands::compare::compare(&args),
        Command::Evaluate(args) => commands::evaluate::evaluate(&args),
        Command::Teacher(args) => commands::teacher::teacher(&args),
        Command::Pairs(args) => commands::distill::pairs(&args),
        Command::Distill(args) => commands::distill::distill(&args),
        Command::Average(args) => commands::average::average(&args),
        Command::Report(args) => commands::report::report(&args),
        Command::Ablate(args) => commands::ablate::ablate(&args),
        Command::Bench(args) => commands::bench::bench(&args),
        Command::Verify(args) => commands::verify::verify(&args),
        Command::SelfCheck(args) => commands::self_check::self_check(&args),
        Command::Devices(args) => commands::devices::devices(&args),
        Command::Inspect(args) => commands::inspect::inspect(&args),
    };
    let result = result.and_then(|()| console::finish().context("cannot write to standard output"));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_err!("error: {}", console::sentence(&error));
            ExitCode::FAILURE
        }
    }
}
