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
use dmd_weights::{
    Checkpoint, Entry, Family, LoraFile, Part as FilePart, Spelling, Tensors, is_dir, is_file, read,
};
use serde_json::json;

use super::JsonArgs;
use crate::console::say;

/// Show the contents of a model folder or a weight file, and what is missing
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A model folder, a component's folder, a weight file, or a repository of the Hugging Face hub
    path: PathBuf,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    #[command(flatten)]
    print: JsonArgs,
}

pub(crate) fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let path = &super::place(&args.path, FloatDType::F32)?;
    anyhow::ensure!(is_file(path) || is_dir(path), "{path:?} does not exist");
    // Networks are made without values, which takes any device.
    let device = device::open("flex")?;
    let found = if is_file(path) {
        file(&read(path)?, &device)
    } else {
        match ModelFolder::open(path) {
            Ok(folder) => model(&folder, &device),
            // A part alone has its configuration beside its weights.
            Err(error) => match describe(path, &device) {
                Ok(found) => alone(path, found),
                Err(reason) => bail!("{}; as a part of a model: {}", causes(error), causes(reason)),
            },
        }
    };
    match args.print.json {
        true => found.print_json(args.tensors),
        false => found.print(args.tensors),
    }
    Ok(())
}

/// What is at a path.
struct Found {
    path: PathBuf,
    text: String,
    /// Of a file, or of a part alone.
    weights: Option<Tensors>,
    parts: Vec<PartFound>,
    /// What keeps it from drawing.
    problems: Vec<String>,
    /// How the generator is called.
    generator: Option<String>,
}

/// A part of a model: its name, what it is, and what a user should know of it.
struct PartFound {
    name: &'static str,
    text: String,
    weights: Option<Tensors>,
    notes: Vec<String>,
}

impl Found {
    fn print(&self, tensors: bool) {
        say!("{}: {}{}", self.path.display(), self.text, counted(self.weights.as_ref()));
        self.weights.iter().filter(|_| tensors).for_each(list);
        for part in &self.parts {
            say!("{:14} {}{}", part.name, part.text, counted(part.weights.as_ref()));
            part.notes.iter().for_each(|note| say!("{:14} {note}", ""));
            part.weights.iter().filter(|_| tensors).for_each(list);
        }
        self.problems.iter().for_each(|problem| say!("{problem}"));
        self.generator.iter().for_each(|text| say!("{text}"));
    }

    fn print_json(&self, tensors: bool) {
        let weights = |weights: &Option<Tensors>| {
            weights.as_ref().map(|file| {
                let (types, parameters) = types(file);
                let all = tensors.then(|| {
                    let entry = |(name, entry): (&String, &Entry)| {
                        (name.clone(), json!({"shape": entry.shape, "dtype": format!("{:?}", entry.dtype)}))
                    };
                    file.entries().iter().map(entry).collect::<serde_json::Map<_, _>>()
                });
                json!({
                    "file": file.path(), "bytes": file.bytes(), "parameters": parameters, "dtypes": types,
                    "count": file.entries().len(), "tensors": all,
                })
            })
        };
        let part = |part: &PartFound| {
            json!({
                "name": part.name, "text": part.text, "weights": weights(&part.weights), "notes": part.notes,
            })
        };
        let line = json!({
            "path": self.path, "text": self.text, "weights": weights(&self.weights),
            "parts": self.parts.iter().map(part).collect::<Vec<_>>(), "problems": self.problems,
            "generator": self.generator,
        });
        say!("{line}");
    }
}

/// A part that is no part of a model's folder.
fn alone(path: &Path, found: Description) -> Found {
    let Description { text, weights } = found;
    Found { path: path.to_owned(), text, weights, parts: Vec::new(), problems: Vec::new(), generator: None }
}

/// Every part of a model, and what is missing for drawing.
fn model(folder: &ModelFolder, device: &Device) -> Found {
    let kind = Kind::of(&folder.clone().into());
    let parts = kind.as_ref().map_or(&Part::ALL[..], |kind| kind.parts());
    let text = kind.as_ref().map_or_else(ToString::to_string, |kind| kind.description().to_owned());
    let found = parts.iter().filter_map(|part| match part {
        Part::Scheduler => Some(scheduler(folder)),
        part => component(folder, *part, device),
    });
    let missing = parts.iter().filter(|part| **part != Part::Generator && !folder.has(**part));
    let missing: Vec<&str> = missing.map(|part| part.name()).collect();
    let problems = match missing.is_empty() {
        true => misfits(folder, device),
        false => vec![format!("not a complete model: {} missing", missing.join(", "))],
    };
    Found {
        path: folder.path().to_owned(),
        text,
        weights: None,
        parts: found.collect(),
        problems,
        generator: Some(generator(folder.path(), device)),
    }
}

/// What opening the model would refuse although every part is whole by itself.
fn misfits(folder: &ModelFolder, device: &Device) -> Vec<String> {
    match dmd_model::misfits(&OpenOptions::new(folder.path(), device)) {
        Ok(reasons) => reasons.iter().map(|reason| format!("does not fit together: {reason}")).collect(),
        Err(error) => vec![format!("cannot be opened: {}", causes(error))],
    }
}

/// How the generator is called.
fn generator(model: &Path, device: &Device) -> String {
    match generator_recipe(&OpenOptions::new(model, device)) {
        Ok(Some(recipe)) => {
            let at: Vec<String> = recipe.timesteps.iter().map(ToString::to_string).collect();
            let guidance = recipe.guidance_scale.map(|scale| format!(", distilled with guidance {scale}"));
            let name = recipe.name.map(|name| format!(", by the recipe {name}"));
            let (name, guidance) = (name.unwrap_or_default(), guidance.unwrap_or_default());
            format!("the generator is called at t = {}{name}{guidance}", at.join(", "))
        }
        Ok(None) => "no distilled generator: it is drawn in many steps; --generator or --recipe can name one"
            .to_owned(),
        Err(error) => format!("the generator's recipe: {}", causes(error)),
    }
}

/// A part with weights; nothing of a generator that is not there, which is no fault.
fn component(model: &ModelFolder, part: Part, device: &Device) -> Option<PartFound> {
    let name = part.name();
    let (text, weights) = match (model.has(part), part) {
        (false, Part::Generator) => return None,
        (false, _) => ("missing".to_owned(), None),
        (true, _) => match model.describe(part, device) {
            Ok(Description { text, weights }) => (text, weights),
            Err(error) => (causes(error), None),
        },
    };
    Some(PartFound { name, text, weights, notes: Vec::new() })
}

/// What the scheduler is, and what a user should know of how it is read.
fn scheduler(folder: &ModelFolder) -> PartFound {
    let source = Source::from(folder.clone());
    let (text, notes) = match Kind::of(&source).and_then(|kind| kind.noising(&source)) {
        Ok(noising) => {
            let sampler = noising.plan(&Steps::Count(1), None).err().map(|error| error.to_string());
            let text =
                format!("predicts {:?}, timesteps 0 to {}", noising.prediction(), noising.last_timestep());
            (text, sampler.into_iter().chain(noising.notes().iter().cloned()).collect())
        }
        Err(error) => (causes(error), Vec::new()),
    };
    PartFound { name: Part::Scheduler.name(), text, weights: None, notes }
}

/// The float types of a file's tensors, and their values.
fn types(file: &Tensors) -> (Vec<String>, usize) {
    let mut types: BTreeMap<String, usize> = BTreeMap::new();
    for entry in file.entries().values() {
        *types.entry(format!("{:?}", entry.dtype)).or_default() += entry.len();
    }
    let total = types.values().sum();
    (types.into_keys().collect(), total)
}

/// Parameters, types, size and place of a file's tensors, behind what a part is.
fn counted(file: Option<&Tensors>) -> String {
    let Some(file) = file else { return String::new() };
    let (types, total) = types(file);
    format!(
        "; {:.1} M parameters in {} tensors, {}, {:.1} MB in {}",
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
fn file(file: &Tensors, device: &Device) -> Found {
    let (text, is_model) = kind_of(file);
    Found {
        path: file.path().to_owned(),
        text,
        weights: Some(file.clone()),
        parts: Vec::new(),
        problems: Vec::new(),
        generator: is_model.then(|| generator(file.path(), device)),
    }
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
