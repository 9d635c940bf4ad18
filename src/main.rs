//! The program `dmd`: a match over subcommands, each a file in `commands/`.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// One-step text-to-image generation, and the distillation that makes it possible.
#[derive(Debug, Parser)]
#[command(name = "dmd", version)]
struct Cli {
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
    Report(commands::report::ReportArgs),
    Ablate(commands::ablate::AblateArgs),
    Bench(commands::bench::BenchArgs),
    Verify(commands::verify::VerifyArgs),
    SelfCheck(commands::self_check::SelfCheckArgs),
    Devices(commands::devices::DevicesArgs),
    Inspect(commands::inspect::InspectArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Generate(args) => commands::generate::generate(&args),
        Command::Compare(args) => commands::compare::compare(&args),
        Command::Evaluate(args) => commands::evaluate::evaluate(&args),
        Command::Teacher(args) => commands::teacher::teacher(&args),
        Command::Pairs(args) => commands::distill::pairs(&args),
        Command::Distill(args) => commands::distill::distill(&args),
        Command::Report(args) => commands::report::report(&args),
        Command::Ablate(args) => commands::ablate::ablate(&args),
        Command::Bench(args) => commands::bench::bench(&args),
        Command::Verify(args) => commands::verify::verify(&args),
        Command::SelfCheck(args) => commands::self_check::self_check(&args),
        Command::Devices(args) => commands::devices::devices(&args),
        Command::Inspect(args) => commands::inspect::inspect(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
