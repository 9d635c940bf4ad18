//! Reads weights from files of any spelling.

use std::path::Path;

use dmd_core::Prediction;
use dmd_weights::{Checkpoint, Family, Part as FilePart, Tensors, read, weight_file};

use crate::Error;
use crate::families::Kind;

/// Opens the weights in a component's folder.
pub(crate) fn of_folder(folder: &Path) -> Result<Tensors, Error> {
    Ok(read(&weight_file(folder, &["diffusion_pytorch_model", "model"])?)?)
}

/// Opens the weights of one network in a file: a bare state dict under diffusers' names, or a single file that contains
/// the network.
pub(crate) fn of_file(path: &Path, part: FilePart) -> Result<Tensors, Error> {
    let tensors = read(path)?;
    let begins = |prefixes: &[&str]| {
        tensors.entries().keys().any(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)))
    };
    // These are names of "latent diffusion". A file with diffusers' names is used unchanged, whatever the network's
    // size.
    let original =
        ["model.diffusion_model.", "input_blocks.", "first_stage_model.", "decoder.up.", "state_dict."];
    if !begins(&original) {
        return Ok(tensors);
    }
    let checkpoint = Checkpoint::open(tensors)?;
    checkpoint.part(part).ok_or_else(|| Error::NoModel {
        folder: path.to_owned(),
        reason: match part {
            FilePart::UNet => "it has no UNet".to_owned(),
            _ => "it has no autoencoder".to_owned(),
        },
    })
}

/// What a generator's network predicts, if its file says so.
///
/// # Errors
///
/// [`Error::Setting`] when the network belongs to another kind of model.
pub(crate) fn of_generator(path: &Path, kind: Kind) -> Result<Option<Prediction>, Error> {
    // A network that is not recognised as a published one may still fit the model.
    let Ok(checkpoint) = Checkpoint::open(read(path)?) else { return Ok(None) };
    let own = match checkpoint.family() {
        Some(Family::StableDiffusionXl) => Kind::StableDiffusionXl,
        Some(Family::StableDiffusion1 | Family::StableDiffusion2) => Kind::StableDiffusion,
        None => return Ok(None),
    };
    if own != kind {
        return Err(Error::Setting {
            setting: format!("the generator {path:?}"),
            hint: format!("it is a network of: {}; this model is: {}", own.description(), kind.description()),
        });
    }
    Ok((checkpoint.v_prediction() == Some(true)).then_some(Prediction::Velocity))
}

/// Whether a Stable Diffusion 2 model predicts the velocity, which its files do not say. As ComfyUI found, the biases
/// of the first normalisation in the last attention then have a standard deviation above 0.09.
pub(super) fn predicts_velocity(checkpoint: &Checkpoint) -> Result<bool, Error> {
    let name = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias";
    let Some(unet) = checkpoint.unet().filter(|unet| unet.entries().contains_key(name)) else {
        return Ok(false);
    };
    let values = unet.floats(name)?;
    let count = values.len().max(1) as f64;
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
    let variance = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
    Ok(variance.sqrt() > 0.09)
}
