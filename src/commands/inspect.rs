use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use dmd_clip::{CLIP_KEYS, TextConfig};
use dmd_kernels::device;
use dmd_unet::{
    AUTOENCODER_KEYS, AutoencoderConfig, TINY_AUTOENCODER_KEYS, TinyAutoencoderConfig, UNET_KEYS, UNetConfig,
};
use dmd_weights::{Tensors, check, read, read_config, read_json, weight_file};
use serde_json::Value;

use crate::console::say;

/// Show what a model folder or a weight file holds, and what is missing
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A model folder, a component's folder, or a weight file
    path: PathBuf,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
}

pub(crate) fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let path = &args.path;
    anyhow::ensure!(path.exists(), "{path:?} is not there");
    if path.is_file() {
        return file(&read(path)?, args.tensors);
    }
    if path.join("config.json").is_file() {
        component(path, "", args.tensors);
        return Ok(());
    }
    let index = path.join("model_index.json");
    if index.is_file() {
        let index: Value = read_json(&index)?;
        say!("{}: {}", path.display(), index["_class_name"].as_str().unwrap_or("a model folder"));
    } else {
        say!("{}: no model_index.json", path.display());
    }
    for part in ["text_encoder", "unet", "unet_one_step", "vae"] {
        component(path, part, args.tensors);
    }
    for (part, files) in
        [("tokenizer", ["vocab.json", "tokenizer.json"]), ("scheduler", ["scheduler_config.json"; 2])]
    {
        let found = files.iter().find(|file| path.join(part).join(file).is_file());
        match (found, part) {
            (None, _) => say!("{part:14} missing: {}", files[0]),
            (Some(file), "scheduler") => {
                let read = read_json::<dmd_scheduler::SchedulerConfig>(&path.join(part).join(file));
                match read.map(|config| (config.validate(), config)) {
                    Ok((Ok(()), config)) => {
                        say!("{part:14} {}, predicts {}", config.class_name, config.prediction_type);
                    }
                    Ok((Err(error), _)) => say!("{part:14} {error}"),
                    Err(error) => say!("{part:14} {error}"),
                }
            }
            (Some(file), _) => say!("{part:14} {file}"),
        }
    }
    let parts = ["text_encoder", "tokenizer", "scheduler", "vae"];
    let missing: Vec<_> = parts.iter().filter(|part| !path.join(part).is_dir()).collect();
    if !missing.is_empty() {
        say!("not a complete model: no {}", missing.iter().map(|m| **m).collect::<Vec<_>>().join(", "));
    } else if !path.join("unet_one_step").is_dir() {
        say!("no one-step generator: draw with --steps 20 or more, or name one with --generator");
    }
    Ok(())
}

fn component(model: &Path, part: &str, tensors: bool) {
    let folder = if part.is_empty() { model.to_owned() } else { model.join(part) };
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !folder.is_dir() {
        if part != "unet_one_step" {
            say!("{name:14} missing");
        }
        return;
    }
    match describe(&folder) {
        Ok((text, weights)) => {
            say!("{name:14} {text}");
            if tensors {
                list(&weights);
            }
        }
        Err(error) => say!("{name:14} {error:#}"),
    }
}

/// A component's class, architecture and weights; an error when they do not fit.
fn describe(folder: &Path) -> anyhow::Result<(String, Tensors)> {
    let config: Value = read_config(folder)?;
    let class =
        config["_class_name"].as_str().or(config["architectures"][0].as_str()).unwrap_or("unknown class");
    let weights = read(&weight_file(folder, &["diffusion_pytorch_model", "model"])?)?;
    let device = device::open("flex")?;
    let channels = |key: &str| config[key].to_string().replace(',', ", ");
    // The networks are made without values: parameters are filled on first use.
    let shape = match class {
        "UNet2DConditionModel" => {
            let config: UNetConfig = read_config(folder)?;
            check(&config.init(&device)?, &weights, &UNET_KEYS)?;
            format!("channels {}, text {} wide", channels("block_out_channels"), config.cross_attention_dim)
        }
        "AutoencoderKL" => {
            let config: AutoencoderConfig = read_config(folder)?;
            check(&config.init(&device)?, &weights, &AUTOENCODER_KEYS)?;
            format!("channels {}, latents × {}", channels("block_out_channels"), config.scaling_factor)
        }
        "AutoencoderTiny" => {
            let config: TinyAutoencoderConfig = read_config(folder)?;
            check(&config.init(&device)?, &weights, &TINY_AUTOENCODER_KEYS)?;
            format!("channels {}", channels("decoder_block_out_channels"))
        }
        "CLIPTextModel" => {
            let config: TextConfig = read_config(folder)?;
            check(&config.init(&device)?, &weights, &CLIP_KEYS)?;
            format!("{} layers, {} wide", config.num_hidden_layers, config.hidden_size)
        }
        other => anyhow::bail!("{other}: not a network this program knows"),
    };
    Ok((format!("{class}, {shape}; {}", summary(&weights)), weights))
}

/// Parameters, types, size and place of a file's tensors.
fn summary(file: &Tensors) -> String {
    let mut types: BTreeMap<String, usize> = BTreeMap::new();
    for entry in file.entries().values() {
        *types.entry(format!("{:?}", entry.dtype)).or_default() += entry.len();
    }
    let total: usize = types.values().sum();
    let types: Vec<String> = types.into_keys().collect();
    format!(
        "{:.1} M parameters in {} tensors, {}, {:.1} MB in {}",
        total as f64 / 1e6,
        file.entries().len(),
        types.join(" and "),
        file.bytes() as f64 / 1e6,
        file.path().file_name().unwrap_or_default().to_string_lossy()
    )
}

fn list(file: &Tensors) {
    for (name, entry) in file.entries() {
        say!("    {name} {:?} {:?}", entry.shape, entry.dtype);
    }
}

/// A bare weight file: what it is by its names.
fn file(file: &Tensors, tensors: bool) -> anyhow::Result<()> {
    let has = |part: &str| file.entries().keys().any(|name| name.starts_with(part));
    let kind = if has("down_blocks.") && has("mid_block.") && has("time_embedding.") {
        "a UNet's state dict (diffusers' names)"
    } else if has("encoder.down_blocks.") {
        "an autoencoder's state dict (diffusers' names)"
    } else if has("text_model.") || has("encoder.layers.0.self_attn") {
        "a CLIP text encoder's state dict"
    } else if has("decoder.layers.") {
        "a tiny autoencoder's state dict"
    } else if has("model.diffusion_model.") {
        "a single-file checkpoint with the original names, which is not read; convert it to a diffusers folder"
    } else {
        "tensors of an unknown kind"
    };
    say!("{}: {kind}; {}", file.path().display(), summary(file));
    if tensors {
        list(file);
    }
    Ok(())
}
