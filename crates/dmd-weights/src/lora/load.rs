//! Loads a LoRA file into the low-rank updates of a network that is trained.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::module::Module;
use safetensors::Dtype;

use super::file::{LoraFile, LoraPart};
use super::keys::{self, Role};
use super::write::MARK;
use crate::entry::Entry;
use crate::parameters::collect;
use crate::{Error, KeyMap, Tensors, load_some_for_training};

/// Whether the names of a file's tensors are those of low-rank updates.
pub fn is_lora(tensors: &Tensors) -> bool {
    tensors.entries().keys().any(|key| matches!(keys::split(key), Some((_, Role::Down))))
}

/// Fills the low-rank updates of a UNet, which `[lora]` attached, with the matrices of a LoRA file. `alpha` is the
/// alpha of the network's updates: each is multiplied by `alpha / rank`. Where the file has another alpha, the matrices
/// are scaled so that the updates have the file's strength.
///
/// # Errors
///
/// As [`LoraFile::read`]; [`Error::Lora`], which names the first layer that only the file or only the network updates,
/// or whose rank differs.
pub fn load_lora<M: Module>(network: M, path: &Path, keys: &KeyMap, alpha: f64) -> Result<M, Error> {
    let refused = |reason: String| Error::Lora { path: path.to_owned(), reason };
    let found = collect(&network, keys);
    let shapes: BTreeMap<&str, &[usize]> =
        found.iter().map(|(name, shape, _)| (name.as_str(), shape.as_slice())).collect();
    let described =
        found.iter().filter(|(name, ..)| !name.contains(MARK)).filter_map(|(name, shape, values)| {
            let values = values.clone();
            Some((name.clone(), Entry::computed(Dtype::F32, shape.clone(), move || Ok(values()))?))
        });
    let weights = Tensors::from_entries(path.to_owned(), described, 0)?;
    let mut file = LoraFile::read(path)?;
    let lora = file.fit(LoraPart::UNet, &weights)?;
    if let Some(key) = file.report()?.unused.first() {
        return Err(refused(format!("{key:?} belongs to no layer of this network")));
    }
    let layer_of = |target: &str| target.trim_end_matches(".weight").to_owned();
    let here: BTreeSet<String> =
        shapes.keys().filter_map(|name| Some(name.split_once(MARK)?.0.to_owned())).collect();
    let there: BTreeSet<String> = lora.updates.iter().map(|update| layer_of(&update.target)).collect();
    if let Some(layer) = here.symmetric_difference(&there).next() {
        let (which, more) = if here.contains(layer) { ("[lora]", "file") } else { ("file", "[lora]") };
        return Err(refused(format!("{which} updates the layer {layer:?}, which the {more} does not")));
    }
    let (mut entries, mut names) = (Vec::new(), Vec::new());
    for update in lora.updates {
        let layer = layer_of(&update.target);
        let rank = lora.tensors.entries().get(&update.down).map_or(0, |entry| entry.shape[0]);
        let factor = update.alpha.unwrap_or(rank as f64) / alpha;
        for (matrix, source, factor) in [("down", update.down, 1.0), ("up", update.up, factor)] {
            let name = format!("{layer}{MARK}{matrix}");
            let shape = shapes.get(name.as_str()).map(|shape| shape.to_vec()).unwrap_or_default();
            if matrix == "down" && shape.first() != Some(&rank) {
                let own = shape.first().copied().unwrap_or_default();
                return Err(refused(format!("its rank is {rank} at {layer:?}, and lora.rank is {own}")));
            }
            let tensors = lora.tensors.clone();
            let values = move || {
                let values = tensors.floats(&source)?;
                Ok(values.into_iter().map(|value| (f64::from(value) * factor) as f32).collect())
            };
            entries.extend(Entry::computed(Dtype::F32, shape, values).map(|entry| (name.clone(), entry)));
            names.push(name);
        }
    }
    let matrices = Tensors::from_entries(path.to_owned(), entries, 0)?;
    drop(found);
    load_some_for_training(network, &matrices, keys, &names)
}
