use std::path::PathBuf;

use anyhow::ensure;
use burn::tensor::FloatDType;
use clap::Args;
use dmd_kernels::device;
use dmd_model::{Kind, LoraOption, OpenOptions, Source};

use super::lora;
use crate::console::{note, say};

/// Write a single file of Stable Diffusion as a folder in diffusers' layout
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// A single file, a model folder, or a repository of the Hugging Face hub
    model: PathBuf,
    /// The folder to write; it must not exist
    out: PathBuf,
    /// LoRA file to merge into the weights; :STRENGTH behind it sets a strength other than 1; can be given several times
    #[arg(long, value_name = "FILE[:STRENGTH]", value_parser = lora)]
    lora: Vec<LoraOption>,
    /// Name of the published recipe by which a few-step model is called; it is written into the folder [default: recognised
    /// by the file's name]
    #[arg(long, value_name = "NAME")]
    recipe: Option<String>,
    /// A model folder from which a single file takes configurations, tokenizers and missing parts
    #[arg(long, value_name = "FOLDER")]
    config: Option<PathBuf>,
}

pub(crate) fn convert(args: &ConvertArgs) -> anyhow::Result<()> {
    ensure!(!args.out.exists(), "{:?} exists already; name a folder that does not", args.out);
    let dtype = FloatDType::F32;
    // Nothing is computed.
    let mut options = OpenOptions::new(super::place(&args.model, dtype)?, &device::open("flex")?);
    options.config = args.config.as_ref().map(|path| super::place(path, dtype)).transpose()?;
    options.recipe = args.recipe.clone();
    for LoraOption { path, strength } in &args.lora {
        options.loras.push(LoraOption { path: super::place(path, dtype)?, strength: *strength });
    }
    for text in dmd_model::convert(&options, &args.out)? {
        note!("{text}");
    }
    let kind = Kind::of(&Source::open(&options)?)?;
    say!("{}: {}", args.out.display(), kind.description());
    Ok(())
}
