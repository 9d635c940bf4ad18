use clap::{Args, Command};
use clap_complete::{Shell, generate};

use crate::console;

/// Print a script that completes commands and options in a shell
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn completions(args: &CompletionsArgs, program: &mut Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    generate(args.shell, program, "dmd", &mut script);
    console::bytes(&script);
    Ok(())
}
