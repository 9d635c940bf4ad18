//! Writes a model as a folder in diffusers' layout.

use std::fs;
use std::path::Path;

use dmd_clip::Vocabulary;
use dmd_weights::{Dtype, LoraPart, ModelIndex, Precision, Tensors, WholeFolder, write, write_json};
use serde_json::{Value, json};

use crate::families::{Kind, Part};
use crate::folder::{ModelFolder, scheduler_file};
use crate::loras::Loras;
use crate::networks::generator_recipe;
use crate::source::Source;
use crate::stable_diffusion::MAX_TOKENS;
use crate::{Error, OpenOptions, RecipeFile};

/// Writes the model that the options name, e.g. a single file, as a folder in diffusers' layout with merged LoRA files.
/// Weights keep the precision of their file, but 8-bit weights become f16. The folder is written completely or not at
/// all. Returns notes for the user, one sentence each.
///
/// # Errors
///
/// When a part is missing, damaged or does not fit the others, a LoRA file changes nothing, or a file cannot be written.
pub fn convert(options: &OpenOptions, folder: &Path) -> Result<Vec<String>, Error> {
    if !options.embeddings.is_empty() {
        return Err(Error::Setting {
            setting: "an embedding in a converted model".to_owned(),
            hint: "it stays a file of its own, and is given when the model draws".to_owned(),
        });
    }
    let source = Source::open(options)?;
    let kind = Kind::of(&source)?;
    let refused = [
        (kind == Kind::Classes, "a model of classes", "it is no single file, and a folder already"),
        (
            options.autoencoder.is_some(),
            "another autoencoder",
            "leave it out: the model is written with its own",
        ),
        (
            options.tiny_autoencoder.is_some(),
            "a tiny autoencoder",
            "leave it out: the model is written with its own",
        ),
        (options.generator.is_some(), "another generator", "leave it out, or convert it by itself"),
        (
            options.of_generator_alone().is_some(),
            "a number of steps or a guidance",
            "they are given when the model draws",
        ),
    ];
    if let Some((_, what, hint)) = refused.into_iter().find(|(refused, ..)| *refused) {
        return Err(Error::Setting { setting: format!("converting with {what}"), hint: hint.to_owned() });
    }
    let mut loras = Loras::open(options)?;
    // Parts that do not fit each other are refused before the folder is written, since it could not be opened.
    let misfits = crate::misfits(options)?;
    if !misfits.is_empty() {
        return Err(Error::Misfit { folder: options.model.clone(), reasons: misfits });
    }
    // The folder gets a recipe file that says how the model is called. An existing recipe file is copied.
    let place = match source.has(Part::Generator) {
        true => Part::Generator,
        false => Part::UNet,
    };
    let recipe = generator_recipe(options)?;
    let written =
        source.folder().map(|folder| RecipeFile::beside(&folder.part(place))).transpose()?.flatten();
    let few_steps = recipe.filter(|recipe| written.is_none() && !recipe.assumed);
    WholeFolder::new(folder).replace(|fresh| {
        let out = ModelFolder::new(fresh);
        for part in kind.parts().iter().filter(|part| **part != Part::Generator || source.has(**part)) {
            write_part(&source, *part, &mut loras, &out)?;
        }
        if let Some(recipe) = &few_steps {
            recipe.write(&out.part(place))?;
        }
        Ok::<_, Error>(write_json(&out.index_file(), &index(&source, kind)?)?)
    })?;
    let mut notes = source.notes();
    notes.extend(loras.report()?);
    if let Some(recipe) = few_steps {
        let called = recipe
            .name
            .map_or_else(|| format!("at t = {:?}", recipe.timesteps), |name| format!("by the recipe {name}"));
        notes.push(format!("the folder says that it is drawn {called}"));
    }
    Ok(notes)
}

fn write_part(source: &Source, part: Part, loras: &mut Loras, out: &ModelFolder) -> Result<(), Error> {
    let place = out.part(part);
    if part.is_tokenizer() {
        return match source.tokenizer_folder(part) {
            Some(folder) => copy_files(&folder?, &place),
            None => {
                let padding = source.published().and_then(|family| family.padding(part));
                let padding =
                    padding.ok_or(Error::Missing { wanted: "tokenizer", hint: "name one with --config" })?;
                Ok(Vocabulary::openai().save_padded(&place, MAX_TOKENS, padding)?)
            }
        };
    }
    if part == Part::Scheduler {
        return Ok(write_json(&scheduler_file(&place), &source.scheduler::<Value>()?)?);
    }
    let weights = source.tensors(part)?;
    let (weights, name) = match part {
        Part::TextEncoder => (loras.merged(LoraPart::TextEncoder, weights)?, "model.safetensors"),
        Part::TextEncoder2 => (loras.merged(LoraPart::TextEncoder2, weights)?, "model.safetensors"),
        Part::UNet if source.has(Part::Generator) => {
            (loras.merged_for_teacher(LoraPart::UNet, weights)?, "diffusion_pytorch_model.safetensors")
        }
        Part::UNet | Part::Generator => {
            (loras.merged(LoraPart::UNet, weights)?, "diffusion_pytorch_model.safetensors")
        }
        _ => (weights, "diffusion_pytorch_model.safetensors"),
    };
    write(&place.join(name), &weights, precision_of(&weights))?;
    if let (Part::Generator | Part::UNet, Some(folder)) = (part, source.folder())
        && let Some(recipe) = RecipeFile::beside(&folder.part(part))?
    {
        write_json(&RecipeFile::place(&place), &recipe)?;
    }
    Ok(write_json(&place.join("config.json"), &source.config::<Value>(part)?)?)
}

/// The precision that most of the values have.
fn precision_of(weights: &Tensors) -> Precision {
    let count = |wanted: &[Dtype]| -> usize {
        let of = weights.entries().values().filter(|entry| wanted.contains(&entry.dtype));
        of.map(|entry| entry.len()).sum()
    };
    let half = count(&[Dtype::F16, Dtype::F8_E4M3, Dtype::F8_E5M2]);
    let (brain, single) = (count(&[Dtype::BF16]), count(&[Dtype::F32, Dtype::F64]));
    match single.max(half).max(brain) {
        most if most == single => Precision::Single,
        most if most == half => Precision::Half,
        _ => Precision::Brain,
    }
}

fn copy_files(from: &Path, to: &Path) -> Result<(), Error> {
    let failed = |path: &Path, source| dmd_weights::Error::Write { path: path.to_owned(), source };
    fs::create_dir_all(to).map_err(|source| failed(to, source))?;
    let read = |source| dmd_weights::Error::Read { path: from.to_owned(), source };
    for entry in fs::read_dir(from).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            fs::copy(&path, to.join(name)).map_err(|source| failed(&to.join(name), source))?;
        }
    }
    Ok(())
}

/// The contents of `model_index.json`.
fn index(source: &Source, kind: Kind) -> Result<ModelIndex, Error> {
    let xl = kind == Kind::StableDiffusionXl;
    let scheduler: Value = source.scheduler()?;
    let mut entries = std::collections::BTreeMap::new();
    for part in kind.parts() {
        let (library, class) = match part {
            Part::Tokenizer | Part::Tokenizer2 => ("transformers", "CLIPTokenizer"),
            Part::TextEncoder => ("transformers", "CLIPTextModel"),
            Part::TextEncoder2 => ("transformers", "CLIPTextModelWithProjection"),
            Part::UNet => ("diffusers", "UNet2DConditionModel"),
            Part::Autoencoder => ("diffusers", "AutoencoderKL"),
            Part::Scheduler => ("diffusers", scheduler["_class_name"].as_str().unwrap_or("DDIMScheduler")),
            Part::Generator => continue,
        };
        entries.insert(part.name().to_owned(), json!([library, class]));
    }
    let nothing = || json!([null, null]);
    entries.insert("feature_extractor".to_owned(), nothing());
    if xl {
        entries.insert("image_encoder".to_owned(), nothing());
        entries.insert("force_zeros_for_empty_prompt".to_owned(), source.forces_zeros()?.into());
    } else {
        entries.insert("safety_checker".to_owned(), nothing());
        entries.insert("requires_safety_checker".to_owned(), false.into());
    }
    let class_name = if xl { "StableDiffusionXLPipeline" } else { "StableDiffusionPipeline" };
    Ok(ModelIndex { class_name: class_name.to_owned(), entries })
}
