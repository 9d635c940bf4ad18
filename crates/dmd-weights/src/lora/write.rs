//! Writes low-rank updates as LoRA files that other programs can read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use safetensors::Dtype;
use serde_json::json;

use crate::entry::Entry;
use crate::parameters::{Values, collect};
use crate::write::{Precision, write_with_metadata};
use crate::{Error, KeyMap, Tensors};

/// How the names in a LoRA file are spelled. diffusers and this project read both spellings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoraSpelling {
    /// diffusers' and PEFT's: `unet.<layer>.lora_A.weight`, with rank and alpha in the metadata.
    #[default]
    Peft,
    /// kohya's, which ComfyUI and the web UI also read: `lora_unet_<layer>.lora_down.weight`, with an `alpha` per
    /// layer.
    Kohya,
}

/// The part of a parameter's path that marks it as a matrix of an update (`LowRank` of dmd-kernels).
pub(super) const MARK: &str = ".weight.lora.";

/// Writes the low-rank updates of a UNet's layers as a LoRA file, completely or not at all. Every update is multiplied
/// by `alpha / rank`. `metadata` is written in addition to the metadata of the spelling. Besides the network, only one
/// matrix at a time is in memory.
///
/// # Errors
///
/// As [`write()`](crate::write()); [`Error::Lora`] if the network has no updates.
pub fn save_lora<M: Module>(
    network: &M,
    path: &Path,
    keys: &KeyMap,
    alpha: f64,
    (spelling, precision): (LoraSpelling, Precision),
    metadata: &[(&str, &str)],
) -> Result<(), Error> {
    let found = collect(network, keys);
    let shapes: BTreeMap<&str, &[usize]> =
        found.iter().map(|(name, shape, _)| (name.as_str(), shape.as_slice())).collect();
    let (mut entries, mut layers, mut rank) = (Vec::new(), Vec::new(), 0);
    for (name, shape, values) in &found {
        let Some((layer, matrix)) = name.split_once(MARK) else { continue };
        let down = matrix == "down";
        let window: &[usize] = match shapes.get(format!("{layer}.weight").as_str()) {
            Some([_, inputs, height, width]) if down => &[shape[0], *inputs, *height, *width],
            Some([_, _, _, _]) => &[shape[0], shape[1], 1, 1],
            _ => shape,
        };
        let name = match (spelling, down) {
            (LoraSpelling::Peft, true) => format!("unet.{layer}.lora_A.weight"),
            (LoraSpelling::Peft, false) => format!("unet.{layer}.lora_B.weight"),
            (LoraSpelling::Kohya, true) => format!("{}.lora_down.weight", flat(layer)),
            (LoraSpelling::Kohya, false) => format!("{}.lora_up.weight", flat(layer)),
        };
        entries.extend(entry(name, window.to_vec(), Arc::clone(values)));
        if down {
            rank = shape[0];
            layers.push(layer);
            if spelling == LoraSpelling::Kohya {
                entries.extend(entry(
                    format!("{}.alpha", flat(layer)),
                    vec![],
                    Arc::new(move || vec![alpha as f32]),
                ));
            }
        }
    }
    if layers.is_empty() {
        let reason = "the network that was to be written has no low-rank updates".to_owned();
        return Err(Error::Lora { path: path.to_owned(), reason });
    }
    let tensors = Tensors::from_entries(path.to_owned(), entries, 0)?;
    let config =
        json!({ "unet.r": rank, "unet.lora_alpha": alpha, "unet.target_modules": layers }).to_string();
    let mut all = [&[("format", "pt")], metadata].concat();
    if spelling == LoraSpelling::Peft {
        all.push(("lora_adapter_metadata", &config));
    }
    write_with_metadata(path, &tensors, precision, &all)
}

/// kohya's name for a layer.
fn flat(layer: &str) -> String {
    format!("lora_unet_{}", layer.replace('.', "_"))
}

fn entry(name: String, shape: Vec<usize>, values: Values) -> Option<(String, Entry)> {
    Some((name, Entry::computed(Dtype::F32, shape, move || Ok(values()))?))
}
