//! The program `dmd`: a match over subcommands, each a file in `commands/`.

#![deny(clippy::print_stdout, clippy::print_stderr)]

#[cfg(all(test, feature = "hub", feature = "serve"))]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod book;
mod commands;
mod console;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod memory;
mod picture_file;
mod show;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

use crate::console::{Level, detail, say_err};

/// One-step text-to-image generation, and the distillation that makes it possible.
#[derive(Debug, Parser)]
#[command(name = "dmd", version, after_help = STATUS)]
struct Cli {
    /// Threads on a CPU [default: RAYON_NUM_THREADS, else one per core]
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Print neither notes nor progress; errors, warnings and results are printed
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print also which files and device are used, the time and the peak of memory
    #[arg(long, short, global = true)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

const STATUS: &str = "Exit status: 0 when everything was done; 1 after an error, or when a check found a difference; 2 when the \
command line cannot be read; 130 when Ctrl-C ended a command before it was done. A training that is asked to stop writes a \
checkpoint and exits with 0. Results go to standard output, everything else to standard error.";

#[derive(Debug, Subcommand)]
enum Command {
    #[command(
        after_help = "Examples:\n  dmd generate \"a red circle above a blue square\" --seed 7 --out shapes.png\n  dmd generate \"a red fox\" --model sd15 --steps 30 --guidance 7.5 --negative \"blurry\"\n  dmd generate \"a <cat-toy> on a roof\" --model sd15 --steps 30 --embedding learned_embeds.safetensors\n  dmd generate \"a green triangle\" --count 600 --out choose/from.webp"
    )]
    Generate(Box<commands::generate::GenerateArgs>),
    #[command(
        after_help = "Example:\n  dmd compare \"a red circle\" \"a blue square\" --steps 50 --out compare.png"
    )]
    Compare(commands::compare::CompareArgs),
    #[command(
        after_help = "Examples:\n  dmd evaluate --prompts 400 --steps 50,1\n  dmd evaluate --run runs/shapes-distill --checkpoint 1000"
    )]
    Evaluate(commands::evaluate::EvaluateArgs),
    #[command(after_help = "Example:\n  dmd teacher configs/shapes-teacher.toml")]
    Teacher(commands::teacher::TeacherArgs),
    #[command(after_help = "Example:\n  dmd cache configs/shapes-distill.toml --shard 2/4")]
    Cache(commands::cache::CacheArgs),
    #[command(after_help = "Example:\n  dmd pairs configs/shapes-regression.toml --shard 2/4")]
    Pairs(commands::distill::PairsArgs),
    #[command(
        after_help = "Examples:\n  dmd plan configs/shapes-distill.toml\n  dmd plan configs/sd15-one-step.toml --teacher sd15 --device flex"
    )]
    Plan(commands::plan::PlanArgs),
    #[command(after_help = "Example:\n  dmd distill configs/shapes-distill.toml")]
    Distill(commands::distill::DistillArgs),
    #[command(
        after_help = "Examples:\n  dmd export runs/sd15-lora\n  dmd export runs/sd15-lora --step 4000 --out step4000"
    )]
    Export(commands::export::ExportArgs),
    #[command(after_help = "Example:\n  dmd average runs/a/unet_one_step runs/b/unet_one_step --out mean")]
    Average(commands::average::AverageArgs),
    #[command(
        after_help = "Examples:\n  dmd report runs/shapes-distill\n  dmd report runs/a runs/b --out both.html"
    )]
    Report(commands::report::ReportArgs),
    #[command(after_help = "Example:\n  dmd bench --model sd15 --runs 5")]
    Bench(commands::bench::BenchArgs),
    #[command(after_help = "Example:\n  dmd verify --model sd15 --reference reference.safetensors")]
    Verify(commands::verify::VerifyArgs),
    #[cfg(feature = "serve")]
    #[command(
        after_help = "Examples:\n  dmd serve\n  dmd serve --model sd15 --generator unet_one_step --port 8080\n\nCtrl-C or SIGTERM stops it after the pictures that are being drawn were sent; a second one stops it at once."
    )]
    Serve(commands::serve::ServeArgs),
    #[command(after_help = "Example:\n  dmd self-check --device wgpu --dtype f16")]
    SelfCheck(commands::self_check::SelfCheckArgs),
    #[command(after_help = "Example:\n  dmd devices --json")]
    Devices(commands::devices::DevicesArgs),
    #[cfg(feature = "hub")]
    #[command(
        after_help = "Examples:\n  dmd pull stabilityai/sdxl-turbo --dtype f16\n  dmd pull tianweiy/DMD2:dmd2_sdxl_4step_lora_fp16.safetensors"
    )]
    Pull(commands::pull::PullArgs),
    #[command(
        after_help = "Example:\n  dmd convert dreamshaper.safetensors dreamshaper --lora detail.safetensors:0.6"
    )]
    Convert(commands::convert::ConvertArgs),
    #[command(after_help = "Examples:\n  dmd inspect sd15\n  dmd inspect unet.safetensors --tensors")]
    Inspect(commands::inspect::InspectArgs),
    #[command(
        after_help = "Example:\n  dmd completions bash\n\nWhere a shell looks for it: ~/.local/share/bash-completion/completions/dmd (bash), a folder of $fpath as _dmd (zsh), ~/.config/fish/completions/dmd.fish (fish)."
    )]
    Completions(commands::completions::CompletionsArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    console::set_level(match (cli.quiet, cli.verbose) {
        (true, _) => Level::Quiet,
        (_, true) => Level::Verbose,
        _ => Level::Usual,
    });
    let start = Instant::now();
    if let Some(threads) = cli.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into());
        if let Err(error) = pool.build_global() {
            say_err!("error: cannot start {threads} threads: {error}");
            return ExitCode::FAILURE;
        }
    }
    commands::progress::break_silences();
    // From here on its path is known, as `--model embedded:/dmd-shapes`.
    #[cfg(feature = "embedded")]
    let _ = dmd_infer::embedded();
    let result = match cli.command {
        Command::Generate(args) => commands::generate::generate(&args),
        Command::Compare(args) => commands::compare::compare(&args),
        Command::Evaluate(args) => commands::evaluate::evaluate(&args),
        Command::Teacher(args) => commands::teacher::teacher(&args),
        Command::Cache(args) => commands::cache::cache(&args),
        Command::Pairs(args) => commands::distill::pairs(&args),
        Command::Plan(args) => commands::plan::plan(&args),
        Command::Distill(args) => commands::distill::distill(&args),
        Command::Export(args) => commands::export::export(&args),
        Command::Average(args) => commands::average::average(&args),
        Command::Report(args) => commands::report::report(&args),
        Command::Bench(args) => commands::bench::bench(&args),
        Command::Verify(args) => commands::verify::verify(&args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => commands::serve::serve(&args),
        Command::SelfCheck(args) => commands::self_check::self_check(&args),
        Command::Devices(args) => commands::devices::devices(&args),
        #[cfg(feature = "hub")]
        Command::Pull(args) => commands::pull::pull(&args),
        Command::Convert(args) => commands::convert::convert(&args),
        Command::Inspect(args) => commands::inspect::inspect(&args),
        Command::Completions(args) => commands::completions::completions(&args, &mut Cli::command()),
    };
    detail!("{:.2} s{}", start.elapsed().as_secs_f64(), peak());
    let result = result.and_then(|()| console::finish().context("cannot write to standard output"));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<commands::progress::Interrupted>() => {
            say_err!("{error}");
            ExitCode::from(130)
        }
        Err(error) => {
            say_err!("error: {}", console::sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// The most memory that the program had, where the system reports it.
fn peak() -> String {
    let bytes = dmd_kernels::memory::peak();
    bytes
        .map(|bytes| format!(", {:.2} GiB of memory at most", bytes as f64 / f64::from(1 << 30)))
        .unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// A command line as a shell splits it, double quotes alone.
    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (i, part) in line.split('"').enumerate() {
            match i % 2 {
                1 => words.push(part.to_owned()),
                _ => words.extend(part.split_whitespace().map(str::to_owned)),
            }
        }
        words
    }

    /// Every command has an example that it understands.
    #[test]
    fn examples_parse() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("  ")).collect();
            assert!(!examples.is_empty(), "`dmd {}` has no example", command.get_name());
            for example in examples {
                Cli::try_parse_from(words(example)).unwrap();
            }
        }
    }

    /// Seeds as PyTorch's `manual_seed` takes them.
    #[test]
    fn seeds() {
        let seed = |text: &str| {
            let cli = Cli::try_parse_from(["dmd", "generate", "x", "--seed", text]);
            cli.map(|cli| match cli.command {
                Command::Generate(args) => args.seed(),
                _ => unreachable!("the command is `generate`"),
            })
        };
        assert_eq!(seed("-1").unwrap(), 18_446_744_073_709_551_615);
        assert_eq!(seed("18446744073709551615").unwrap(), u64::MAX);
        assert_eq!(seed("7").unwrap(), 7);
        for wrong in ["x", "1.5", "18446744073709551616"] {
            let said = seed(wrong).unwrap_err().to_string();
            assert!(said.contains("--seed") && said.contains("whole number"), "{said}");
        }
    }
}
