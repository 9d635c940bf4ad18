use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::bail;
use burn::tensor::Device;
use clap::Args;
use dmd_infer::Steps;
use dmd_kernels::device;
use dmd_model::{Description, Kind, ModelFolder, OpenOptions, Part, Source, describe, generator_recipe};
use dmd_weights::{Tensors, read};

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
    // Networks are made without values, which takes any device.
    let device = device::open("flex")?;
    match ModelFolder::open(path) {
        Ok(folder) => model(&folder, &device, args.tensors),
        // A part alone has its configuration beside its weights.
        Err(error) => match describe(path, &device) {
            Ok(found) => show(&format!("{}: ", path.display()), &found, args.tensors),
            Err(reason) => bail!("{}; as a part of a model: {}", causes(error), causes(reason)),
        },
    }
    Ok(())
}

/// Every part of a model, and what is missing for drawing.
fn model(folder: &ModelFolder, device: &Device, tensors: bool) {
    let kind = Kind::of(&folder.clone().into());
    let parts = kind.as_ref().map_or(&Part::ALL[..], |kind| kind.parts());
    let is = kind.map_or_else(|error| error.to_string(), |kind| kind.description().to_owned());
    say!("{}: {is}", folder.path().display());
    for part in parts {
        match part {
            Part::Scheduler => scheduler(folder),
            part => component(folder, *part, device, tensors),
        }
    }
    let missing = parts.iter().filter(|part| **part != Part::Generator && !folder.has(**part));
    let missing: Vec<&str> = missing.map(|part| part.name()).collect();
    if missing.is_empty() {
        misfits(folder, device);
    } else {
        say!("not a complete model: {} missing", missing.join(", "));
    }
    generator(folder, device);
}

/// What opening the model would refuse although every part is whole by itself.
fn misfits(folder: &ModelFolder, device: &Device) {
    match dmd_model::misfits(&OpenOptions::new(folder.path(), device)) {
        Ok(reasons) => reasons.iter().for_each(|reason| say!("does not fit together: {reason}")),
        Err(error) => say!("cannot be opened: {}", causes(error)),
    }
}

/// How the generator is called.
fn generator(folder: &ModelFolder, device: &Device) {
    if !folder.has(Part::Generator) {
        say!("no one-step generator: draw with --steps 20 or more, or name one with --generator");
        return;
    }
    match generator_recipe(&OpenOptions::new(folder.path(), device)) {
        Ok(Some(recipe)) => {
            let at: Vec<String> = recipe.timesteps.iter().map(ToString::to_string).collect();
            let guidance = recipe.guidance_scale.map(|scale| format!(", distilled with guidance {scale}"));
            say!("the generator is called at t = {}{}", at.join(", "), guidance.unwrap_or_default());
        }
        Ok(None) => {}
        Err(error) => say!("the generator's recipe: {}", causes(error)),
    }
}

fn component(model: &ModelFolder, part: Part, device: &Device, tensors: bool) {
    let name = part.name();
    if !model.has(part) {
        if part != Part::Generator {
            say!("{name:14} missing");
        }
        return;
    }
    match model.describe(part, device) {
        Ok(found) => show(&format!("{name:14} "), &found, tensors),
        Err(error) => say!("{name:14} {}", causes(error)),
    }
}

/// A part's line, and with `tensors` what its weights are.
fn show(before: &str, found: &Description, tensors: bool) {
    let Description { text, weights } = found;
    match weights {
        Some(weights) => say!("{before}{text}; {}", summary(weights)),
        None => say!("{before}{text}"),
    }
    if let Some(weights) = weights.as_ref().filter(|_| tensors) {
        list(weights);
    }
}

/// Where the scheduler stands, and what a user should know of how it is read.
fn scheduler(folder: &ModelFolder) {
    let name = Part::Scheduler.name();
    let source = Source::from(folder.clone());
    match Kind::of(&source).and_then(|kind| kind.noising(&source)) {
        Ok(noising) => {
            say!("{name:14} predicts {:?}, timesteps 0 to {}", noising.prediction(), noising.last_timestep());
            let sampler = noising.plan(&Steps::Count(1), None).err().map(|error| error.to_string());
            for note in sampler.into_iter().chain(noising.notes()) {
                say!("{:14} {note}", "");
            }
        }
        Err(error) => say!("{name:14} {}", causes(error)),
    }
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

/// An error with its causes, in one line.
fn causes(error: dmd_model::Error) -> String {
    format!("{:#}", anyhow::Error::from(error))
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
