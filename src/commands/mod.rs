//! The subcommands, one file each.

pub(crate) mod average;
pub(crate) mod bench;
pub(crate) mod cache;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod devices;
pub(crate) mod distill;
pub(crate) mod evaluate;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod plan;
pub(crate) mod progress;
#[cfg(feature = "hub")]
pub(crate) mod pull;
pub(crate) mod ranks;
pub(crate) mod report;
pub(crate) mod self_check;
#[cfg(feature = "serve")]
pub(crate) mod serve;
pub(crate) mod teacher;
pub(crate) mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, FloatDType};
use clap::{Args, ValueEnum};
use dmd_data::{DataSection, Dataset, Prompts};
use dmd_model::{EmbeddingOption, LoraOption, Noising, OpenOptions, Recipe};
use dmd_weights::Precision;

use crate::console::{detail, is_verbose, note};

/// The hub's variable that forbids connections.
#[cfg(feature = "hub")]
pub(crate) const OFFLINE: &str = "HF_HUB_OFFLINE";

/// Which model, on which device.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// Model folder in diffusers' layout, a single file of Stable Diffusion, or a repository of the Hugging Face hub,
    /// OWNER/NAME or OWNER/NAME@REVISION
    /// [default: the embedded model]
    #[arg(long)]
    model: Option<PathBuf>,
    /// Device: flex, ndarray, wgpu, wgpu:1, wgpu:cpu, vulkan, cuda:0 (`dmd devices` lists those of this machine)
    #[arg(long, default_value = "flex")]
    device: String,
}

/// What to draw.
#[derive(Debug, Args)]
pub(crate) struct PromptArgs {
    /// What to draw, a picture per prompt (for a model of classes: their names). `-` reads prompts from standard input, one
    /// per line
    #[arg(required_unless_present = "list")]
    prompts: Vec<String>,
    /// File of prompts: one per line, or a .jsonl file with an object per line that has its prompt under "prompt", "text" or
    /// "caption"
    #[arg(long = "prompts", value_name = "FILE")]
    list: Option<PathBuf>,
}

impl PromptArgs {
    /// The prompts in the order in which they were given, those of the file last.
    pub(crate) fn read(&self) -> anyhow::Result<Vec<String>> {
        let owned = |list: Prompts| list.texts().map(str::to_owned).collect::<Vec<_>>();
        let input = || Prompts::from_reader(std::io::stdin(), "standard input").map(owned);
        let mut all = Vec::new();
        for prompt in &self.prompts {
            match prompt.as_str() {
                "-" => all.extend(input()?),
                prompt => all.push(prompt.to_owned()),
            }
        }
        if let Some(path) = &self.list {
            all.extend(if path.as_os_str() == "-" { input()? } else { owned(Prompts::open(path)?) });
        }
        Ok(all)
    }
}

/// Whether figures are printed for programs.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct JsonArgs {
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
}

/// Opens a run's data set and prints what a user should know of how it is read.
pub(crate) fn open_dataset(section: &DataSection) -> anyhow::Result<Arc<dyn Dataset>> {
    let dataset = section.open()?;
    dataset.notes().iter().for_each(|text| note!("{text}"));
    Ok(dataset)
}

/// Prints what a user should know of how a teacher's scheduler is read.
pub(crate) fn print_notes(noising: &Noising) {
    noising.notes().iter().for_each(|text| note!("{text}"));
}

/// Prints what a user should know of how a model was opened.
pub(crate) fn print_opening(notes: &[String]) {
    notes.iter().for_each(|text| note!("{text}"));
}

/// Prints by which published recipe a generator is called.
pub(crate) fn print_recipe(recipe: &Recipe) {
    let Some(name) = &recipe.name else { return };
    let at = recipe.timesteps.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let guidance = match recipe.told_guidance {
        Some(scale) => format!("told guidance {scale}"),
        None => "without guidance".to_owned(),
    };
    note!("called by the recipe {name}, at t = {at}, {guidance}");
}

/// In which float type networks compute.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct DtypeArgs {
    /// Float type of UNet and autoencoder: f32, or f16 and bf16 on devices that support them
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum Dtype {
    #[default]
    F32,
    F16,
    Bf16,
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::Single,
            Dtype::F16 => Self::Half,
            Dtype::Bf16 => Self::Brain,
        }
    }
}

impl DtypeArgs {
    pub(crate) fn float(self) -> FloatDType {
        match self.dtype {
            Dtype::F32 => FloatDType::F32,
            Dtype::F16 => FloatDType::F16,
            Dtype::Bf16 => FloatDType::BF16,
        }
    }

    /// The name, as it is given.
    pub(crate) fn name(self) -> &'static str {
        match self.dtype {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        }
    }
}

/// The model where none is named: `models/shapes` here, with its teacher, or the one in the program.
pub(crate) fn embedded_model() -> PathBuf {
    let here = Path::new("models/shapes");
    if here.is_dir() {
        return here.to_owned();
    }
    #[cfg(feature = "embedded")]
    return dmd_infer::embedded();
    #[cfg(not(feature = "embedded"))]
    Path::new(env!("CARGO_MANIFEST_DIR")).join(here)
}

/// Where a file or folder lies: as it is given, or in the hub's cache. Without the feature `hub` all are on the disk.
pub(crate) fn place(path: &Path, dtype: FloatDType) -> anyhow::Result<PathBuf> {
    if path.starts_with("embedded:") {
        return Ok(path.to_owned());
    }
    #[cfg(feature = "hub")]
    return pull::place(path, dtype);
    #[cfg(not(feature = "hub"))]
    {
        let _ = dtype;
        Ok(path.to_owned())
    }
}

impl ModelArgs {
    /// The model folder: as given, from the hub, or the embedded one. Networks are computed in `dtype`: of a model on the
    /// hub the weights of that precision are fetched where it has them.
    pub(crate) fn folder(&self, dtype: FloatDType) -> anyhow::Result<PathBuf> {
        self.model.as_ref().map_or_else(|| Ok(embedded_model()), |model| place(model, dtype))
    }

    /// The model's name, as it was given.
    pub(crate) fn name(&self) -> String {
        let model = self.model.clone().unwrap_or_else(embedded_model);
        match model.exists() || dmd_weights::is_dir(&model) {
            true => model.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            false => model.to_string_lossy().into_owned(),
        }
    }

    pub(crate) fn device(&self) -> anyhow::Result<Device> {
        let device = dmd_kernels::device::open(&self.device)?;
        if let Some(hardware) = dmd_kernels::device::properties(&device).hardware.filter(|_| is_verbose()) {
            detail!("device {}: {hardware}", self.device);
        }
        if self.device == "flex" {
            let products = if dmd_kernels::device::multiplies_bf16() { "bf16" } else { "f32" };
            detail!(
                "device flex: products with weights in bf16 are computed in {products}, all others in f32"
            );
        }
        Ok(device)
    }

    /// The device's name, as it was given.
    pub(crate) fn device_name(&self) -> &str {
        &self.device
    }
}

/// Which parts of a model come from elsewhere, and how its generator is called.
#[derive(Debug, Args)]
pub(crate) struct PartsArgs {
    /// Distilled generator: a UNet folder, a bare state dict or a single file [default: unet_one_step of the model]
    #[arg(long)]
    generator: Option<PathBuf>,
    /// Name of the published recipe by which the generator is called: dmd2-1step, dmd2-4step, lcm, lightning-1step to -8step,
    /// hyper-1step to -8step, hyper-1step-unet, turbo, tcd; or none, to ignore the file's name. Without --generator it
    /// applies to the model itself [default: recognised by the file or its name]
    #[arg(long, value_name = "NAME")]
    recipe: Option<String>,
    /// LoRA file to merge into the weights; :STRENGTH behind it sets a strength other than 1; can be given several times
    #[arg(long, value_name = "FILE[:STRENGTH]", value_parser = lora)]
    lora: Vec<LoraOption>,
    /// File of a textual inversion, which adds a word that prompts can use. The word is :WORD if given, else the tensor's
    /// name in diffusers' files, and the file's name without its ending in other files; can be given several times
    #[arg(long, value_name = "FILE[:WORD]", value_parser = embedding)]
    embedding: Vec<EmbeddingOption>,
    /// Autoencoder in place of the model's own: a folder, or a single file
    #[arg(long, value_name = "FILE | FOLDER")]
    vae: Option<PathBuf>,
    /// With a single file as --model: a model folder from which it takes configurations, tokenizers and missing parts
    #[arg(long, value_name = "FOLDER")]
    config: Option<PathBuf>,
}

impl PartsArgs {
    /// How a model is opened with these parts, each fetched from the hub where it lies there.
    pub(crate) fn options(&self, model: &ModelArgs, dtype: DtypeArgs) -> anyhow::Result<OpenOptions> {
        let dtype = dtype.float();
        let here = |path: &Option<PathBuf>| path.as_ref().map(|path| place(path, dtype)).transpose();
        let lora = |option: &LoraOption| -> anyhow::Result<_> {
            Ok(LoraOption { path: place(&option.path, dtype)?, strength: option.strength })
        };
        let embedding = |option: &EmbeddingOption| -> anyhow::Result<_> {
            Ok(EmbeddingOption { path: place(&option.path, dtype)?, word: option.word.clone() })
        };
        let options = OpenOptions {
            generator: here(&self.generator)?,
            recipe: self.recipe.clone(),
            embeddings: self.embedding.iter().map(embedding).collect::<anyhow::Result<_>>()?,
            loras: self.lora.iter().map(lora).collect::<anyhow::Result<_>>()?,
            autoencoder: here(&self.vae)?,
            config: here(&self.config)?,
            dtype,
            ..OpenOptions::new(model.folder(dtype)?, &model.device()?)
        };
        detail!("model {}", options.model.display());
        let others = [&options.generator, &options.autoencoder, &options.config].into_iter().flatten();
        let others = others.chain(options.loras.iter().map(|lora| &lora.path));
        others
            .chain(options.embeddings.iter().map(|word| &word.path))
            .for_each(|path| detail!("  with {}", path.display()));
        Ok(options)
    }
}

/// `FILE`, or `FILE:STRENGTH`.
pub(crate) fn lora(text: &str) -> Result<LoraOption, String> {
    let (path, strength) = match text.rsplit_once(':').map(|(path, number)| (path, number.parse())) {
        Some((path, Ok(strength))) => (path, strength),
        _ => (text, 1.0),
    };
    if path.is_empty() {
        return Err("name a file".to_owned());
    }
    Ok(LoraOption { path: path.into(), strength })
}

/// Endings of files of weights, after which a colon begins a word.
const ENDINGS: [&str; 5] = ["safetensors", "pt", "pth", "bin", "ckpt"];

/// `FILE`, or `FILE:WORD`. A colon before the file's ending is part of the file's name.
fn embedding(text: &str) -> Result<EmbeddingOption, String> {
    let ends = |path: &str| {
        let ending = Path::new(path).extension().and_then(|ending| ending.to_str());
        ending.is_some_and(|ending| ENDINGS.contains(&ending.to_lowercase().as_str()))
    };
    let mut colons = text.match_indices(':').map(|(at, _)| (&text[..at], &text[at + 1..]));
    let (path, word) = match colons.find(|(path, _)| ends(path)) {
        Some((path, word)) => (path, Some(word.to_owned())),
        None => (text, None),
    };
    if path.is_empty() {
        return Err("name a file".to_owned());
    }
    if word.as_deref() == Some("") {
        return Err("name a word behind the colon, or leave the colon out".to_owned());
    }
    Ok(EmbeddingOption { path: path.into(), word })
}

/// A seed, or a negative number as PyTorch's `manual_seed` takes it: −1 is 2⁶⁴ − 1.
pub(crate) fn seed(text: &str) -> Result<u64, String> {
    let seed = text.parse::<u64>().ok().or_else(|| Some(text.parse::<i64>().ok()?.cast_unsigned()));
    seed.ok_or_else(|| format!("a seed is a whole number from {} to {}", i64::MIN, u64::MAX))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_word_stands_behind_the_ending_of_its_file() {
        for (text, path, word) in [
            ("a.pt", "a.pt", None),
            ("a.pt:sks", "a.pt", Some("sks")),
            ("b/c.SafeTensors:<a:b>", "b/c.SafeTensors", Some("<a:b>")),
            ("C:/a.bin", "C:/a.bin", None),
            ("owner/name:a.safetensors", "owner/name:a.safetensors", None),
            ("owner/name:a.safetensors:sks", "owner/name:a.safetensors", Some("sks")),
            ("folder", "folder", None),
        ] {
            let option = EmbeddingOption { path: path.into(), word: word.map(str::to_owned) };
            assert_eq!(embedding(text).unwrap(), option, "{text}");
        }
        assert!(embedding("").is_err() && embedding("a.pt:").is_err());
    }
}
