use std::path::PathBuf;

use anyhow::ensure;
use burn::tensor::FloatDType;
use clap::Args;
use dmd_infer::verify::{Tolerances, verify as compare};
use serde_json::json;

use super::{JsonArgs, ModelArgs, progress};
use crate::console::say;

/// Compare a model on a device with stored inputs and outputs, module by module
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// File of inputs and outputs, written by scripts/reference.py
    #[arg(long)]
    reference: PathBuf,
    /// One-step generator: a UNet folder or a bare state dict [default: unet_one_step, else unet]
    #[arg(long)]
    generator: Option<PathBuf>,
    /// Absolute tolerance
    #[arg(long, default_value_t = 1e-4)]
    atol: f64,
    /// Tolerance relative to the reference
    #[arg(long, default_value_t = 1e-4)]
    rtol: f64,
    #[command(flatten)]
    print: JsonArgs,
}

pub(crate) fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    for (name, value) in [("--atol", args.atol), ("--rtol", args.rtol)] {
        ensure!(
            value.is_finite() && value >= 0.0,
            "{name} is {value}; a tolerance is a number of at least 0"
        );
    }
    let tolerances = Tolerances { absolute: args.atol, relative: args.rtol };
    let generator = args.generator.as_ref().map(|path| super::place(path, FloatDType::F32)).transpose()?;
    let device = args.model.device()?;
    progress::at("comparing modules");
    let all = compare(
        &args.model.folder(FloatDType::F32)?,
        &args.reference,
        generator.as_deref(),
        &tolerances,
        &device,
    )?;
    if !args.print.json {
        say!("{:14} {:>10} {:>11} {:>11}  verdict", "module", "values", "max |a-b|", "relative");
    }
    let mut wrong = 0;
    for found in &all {
        let verdict = match found.beyond {
            0 => "agrees".to_owned(),
            beyond => format!("{beyond} values beyond the tolerance"),
        };
        wrong += usize::from(found.beyond > 0);
        if args.print.json {
            let line = json!({
                "module": found.module, "values": found.values, "max_absolute": found.max_absolute,
                "relative": found.relative, "beyond": found.beyond,
            });
            say!("{line}");
            continue;
        }
        say!(
            "{:14} {:>10} {:>11.2e} {:>11.2e}  {verdict}",
            found.module,
            found.values,
            found.max_absolute,
            found.relative
        );
    }
    ensure!(
        wrong == 0,
        "{wrong} of {} modules differ by more than {} + {} * |b|",
        all.len(),
        args.atol,
        args.rtol
    );
    Ok(())
}
