use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::bail;
use burn::tensor::{Device, FloatDType};
use clap::Args;
use dmd_infer::Steps;
use dmd_kernels::device;
use dmd_model::{
    Description, Kind, ModelFolder, OpenOptions, Part, RecipeFile, Source, describe, generator_recipe,
};
use dmd_weights::{Checkpoint, Family, LoraFile, Part as FilePart, Spelling, Tensors, is_dir, is_file, read};

use crate::console::say;

/// Show the contents of a model folder or a weight file, and what is missing
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A model folder, a component's folder, a weight file, or a repository of the Hugging Face hub
    path: PathBuf,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
}

pub(crate) fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let path = &super::place(&args.path, FloatDType::F32)?;
    anyhow::ensure!(is_file(path) || is_dir(path), "{path:?} does not exist");
    // Networks are made without values, which takes any device.
    let device = device::open("flex")?;
    if is_file(path) {
        return file(&read(path)?, &device, args.tensors);
    }
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
    generator(folder.path(), device);
}

/// What opening the model would refuse although every part is whole by itself.
fn misfits(folder: &ModelFolder, device: &Device) {
    match dmd_model::misfits(&OpenOptions::new(folder.path(), device)) {
        Ok(reasons) => reasons.iter().for_each(|reason| say!("does not fit together: {reason}")),
        Err(error) => say!("cannot be opened: {}", causes(error)),
    }
}

/// How the generator is called.
fn generator(model: &Path, device: &Device) {
    match generator_recipe(&OpenOptions::new(model, device)) {
        Ok(Some(recipe)) => {
            let at: Vec<String> = recipe.timesteps.iter().map(ToString::to_string).collect();
            let guidance = recipe.guidance_scale.map(|scale| format!(", distilled with guidance {scale}"));
            let name = recipe.name.map(|name| format!(", by the recipe {name}"));
            let (name, guidance) = (name.unwrap_or_default(), guidance.unwrap_or_default());
            say!("the generator is called at t = {}{name}{guidance}", at.join(", "));
        }
        Ok(None) => {
            say!("no distilled generator: it is drawn in many steps; --generator or --recipe can name one");
        }
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

/// A weight file: what it is by its names and shapes.
fn file(file: &Tensors, device: &Device, tensors: bool) -> anyhow::Result<()> {
    let (text, is_model) = kind_of(file);
    say!("{}: {text}; {}", file.path().display(), summary(file));
    if is_model {
        generator(file.path(), device);
    }
    if tensors {
        list(file);
    }
    Ok(())
}

/// What a file is, and whether it is a whole model.
fn kind_of(file: &Tensors) -> (String, bool) {
    match checkpoint_of(file) {
        Ok(checkpoint) => {
            let whole = checkpoint.family().is_some() && checkpoint.parts().count() > 1;
            (text_of(&checkpoint), whole)
        }
        Err(text) => (text, false),
    }
}

/// A file's model, or what else it is.
fn checkpoint_of(file: &Tensors) -> Result<Checkpoint, String> {
    let has = |part: &str| file.entries().keys().any(|name| name.starts_with(part));
    if has("decoder.layers.") {
        return Err("a tiny autoencoder's state dict".to_owned());
    }
    if let Ok(lora) = LoraFile::open(file.clone(), None) {
        let base =
            lora.metadata().get("ss_base_model_version").or(lora.metadata().get("modelspec.architecture"));
        let recipe = lora.metadata().get(RecipeFile::METADATA);
        return Err(format!(
            "a LoRA file{}{}",
            base.map(|base| format!(", by its header of {base}")).unwrap_or_default(),
            recipe.map(|recipe| format!(", which makes a generator: {recipe}")).unwrap_or_default()
        ));
    }
    Checkpoint::open(file.clone()).map_err(|error| match has("down_blocks.") && has("time_embedding.") {
        // Networks of unusual sizes have the names of diffusers all the same.
        true => "a UNet's state dict (diffusers' names)".to_owned(),
        false => format!("not a model that can be opened, {error}"),
    })
}

/// A model's line.
fn text_of(checkpoint: &Checkpoint) -> String {
    let family = match checkpoint.family() {
        Some(Family::StableDiffusion1) => "Stable Diffusion 1.x",
        Some(Family::StableDiffusion2) => "Stable Diffusion 2.x",
        Some(Family::StableDiffusionXl) => "Stable Diffusion XL",
        None => "a part of Stable Diffusion",
    };
    let parts = checkpoint.parts().map(|(part, spelling)| {
        let part = match part {
            FilePart::UNet => "UNet",
            FilePart::Vae => "autoencoder",
            FilePart::TextEncoder => "text encoder",
            FilePart::TextEncoder2 => "second text encoder",
        };
        match spelling {
            Spelling::Diffusers => format!("{part} (diffusers' names)"),
            _ => part.to_owned(),
        }
    });
    let parts: Vec<String> = parts.collect();
    let mut text = format!("{family}: {}", parts.join(", "));
    if checkpoint.unet_average().is_some() {
        text.push_str(", and the UNet's moving average");
    }
    if checkpoint.v_prediction() == Some(true) {
        text.push_str("; predicts the velocity");
    }
    if !checkpoint.leftover().is_empty() {
        text.push_str(&format!("; {} tensors belong to no part", checkpoint.leftover().len()));
    }
    text
}
