use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use dmd_clip::{CLIP_KEYS, TextConfig, Tokenizer};
use dmd_infer::Steps;
use dmd_kernels::device;
use dmd_model::{Kind, MAX_TOKENS, ModelFolder, OpenOptions, Part, generator_recipe};
use dmd_unet::{
    AUTOENCODER_KEYS, AutoencoderConfig, ClassUNet2d, ClassUNetConfig, Network, TINY_AUTOENCODER_KEYS,
    TinyAutoencoderConfig, UNET_KEYS, UNetConfig,
};
use dmd_weights::{Tensors, check, read, read_config, weight_file};
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
    anyhow::ensure!(path.exists(), "{path:?} does not exist");
    if path.is_file() {
        return file(&read(path)?, args.tensors);
    }
    match ModelFolder::open(path) {
        Ok(folder) => model(&folder, args.tensors),
        // A part alone has its configuration beside its weights.
        Err(error) => match describe(path) {
            Ok((text, weights)) => {
                say!("{}: {text}", path.display());
                if args.tensors {
                    list(&weights);
                }
            }
            Err(reason) => bail!("{:#}; as a part of a model: {reason:#}", anyhow::Error::from(error)),
        },
    }
    Ok(())
}

/// Every part of a model, and what is missing for drawing.
fn model(folder: &ModelFolder, tensors: bool) {
    let kind = folder.kind();
    let parts: &[Part] = match kind {
        Ok(Kind::Classes) => &[Part::UNet, Part::Generator],
        _ => &[Part::Tokenizer, Part::TextEncoder, Part::UNet, Part::Generator, Part::Autoencoder],
    };
    say!(
        "{}: {}",
        folder.path().display(),
        match &kind {
            Ok(Kind::StableDiffusion) => "Stable Diffusion, text to pictures".to_owned(),
            Ok(Kind::Classes) => "classes to pictures, on pixels".to_owned(),
            Err(error) => error.to_string(),
        }
    );
    for part in parts {
        component(folder, *part, tensors);
    }
    match folder.noising() {
        Ok(noising) => {
            let name = Part::Scheduler.name();
            say!("{name:14} predicts {:?}, timesteps 0 to {}", noising.prediction(), noising.last_timestep());
            let sampler = noising.plan(&Steps::Count(1), None).err().map(|error| error.to_string());
            for note in sampler.into_iter().chain(noising.notes()) {
                say!("{:14} {note}", "");
            }
        }
        Err(error) => say!("{:14} {:#}", Part::Scheduler.name(), anyhow::Error::from(error)),
    }
    let missing = parts.iter().chain([&Part::Scheduler]).filter(|part| !folder.has(**part));
    let missing: Vec<&str> =
        missing.filter(|part| **part != Part::Generator).map(|part| part.name()).collect();
    if !missing.is_empty() {
        say!("not a complete model: {} missing", missing.join(", "));
    }
    if missing.is_empty() {
        misfits(folder);
    }
    generator(folder);
}

/// What opening the model would refuse although every part is whole by itself.
fn misfits(folder: &ModelFolder) {
    let found = device::open("flex")
        .map_err(anyhow::Error::from)
        .and_then(|device| Ok(dmd_model::misfits(&OpenOptions::new(folder.path(), &device))?));
    match found {
        Ok(reasons) => reasons.iter().for_each(|reason| say!("does not fit together: {reason}")),
        Err(error) => say!("cannot be opened: {error:#}"),
    }
}

/// How the generator is called.
fn generator(folder: &ModelFolder) {
    if !folder.has(Part::Generator) {
        say!("no one-step generator: draw with --steps 20 or more, or name one with --generator");
        return;
    }
    let recipe = device::open("flex")
        .map_err(anyhow::Error::from)
        .and_then(|device| Ok(generator_recipe(&OpenOptions::new(folder.path(), &device))?));
    match recipe {
        Ok(Some(recipe)) => {
            let at: Vec<String> = recipe.timesteps.iter().map(ToString::to_string).collect();
            let guidance = recipe.guidance_scale.map(|scale| format!(", distilled with guidance {scale}"));
            say!("the generator is called at t = {}{}", at.join(", "), guidance.unwrap_or_default());
        }
        Ok(None) => {}
        Err(error) => say!("the generator's recipe: {error:#}"),
    }
}

fn component(model: &ModelFolder, part: Part, tensors: bool) {
    let name = part.name();
    if !model.has(part) {
        if part != Part::Generator {
            say!("{name:14} missing");
        }
        return;
    }
    if part == Part::Tokenizer {
        // The text encoder's length is not needed to read a vocabulary.
        match Tokenizer::from_dir(&model.part(part), MAX_TOKENS) {
            Ok(tokenizer) => say!("{name:14} words up to number {}", tokenizer.largest_id()),
            Err(error) => say!("{name:14} {:#}", anyhow::Error::from(error)),
        }
        return;
    }
    match describe(&model.part(part)) {
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
        "UNet2DModel" => {
            let config: ClassUNetConfig = read_config(folder)?;
            check(&ClassUNet2d::init(&config, &device)?, &weights, &UNET_KEYS)?;
            format!("channels {}, {} classes", channels("block_out_channels"), config.classes())
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
        other => bail!("{other} is not a network that this program knows"),
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
