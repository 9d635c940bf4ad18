//! Reads LoRA files of all usual spellings, and finds the layer of a model that each key belongs to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Map, Value};

use super::keys::{self, Role};
use super::report::LoraReport;
use super::settings::Settings;
use super::spellings::Spellings;
use super::{Lora, Update, fit};
use crate::embedded::is_file;
use crate::{Error, Mismatch, Tensors, read, read_json};

/// A part of a model for which a LoRA file may have updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoraPart {
    /// The UNet, under diffusers' names.
    UNet,
    /// The text encoder, the first one of Stable Diffusion XL, under transformers' names.
    TextEncoder,
    /// The second text encoder of Stable Diffusion XL.
    TextEncoder2,
}

impl LoraPart {
    /// The prefix of this part's entries in diffusers' metadata.
    fn prefix(self) -> &'static str {
        match self {
            Self::UNet => "unet.",
            Self::TextEncoder => "text_encoder.",
            Self::TextEncoder2 => "text_encoder_2.",
        }
    }
}

/// A LoRA file in any of the usual spellings: kohya's with diffusers' or the original names of layers, diffusers' old
/// and newer spellings, PEFT's, ComfyUI's and LyCORIS'. [`fit`](Self::fit) finds the updates for each part of a model.
/// Afterwards [`report`](Self::report) says what was used. [`Tensors::merged`] adds the updates to the weights, at any
/// strength.
///
/// ```
/// use dmd_weights::{LoraFile, LoraPart, Tensors};
/// let tensor = |name: &str, shape: &[usize], values: &[f32]| (name.to_owned(), shape.to_vec(), values.to_vec());
/// let unet = Tensors::from_values("unet", [tensor("conv_out.weight", &[1, 2], &[0.0, 1.0])])?;
/// let mut file = LoraFile::open(Tensors::from_values("lora", [
///     tensor("lora_unet_conv_out.lora_down.weight", &[1, 2], &[1.0, 2.0]),
///     tensor("lora_unet_conv_out.lora_up.weight", &[1, 1], &[4.0]),
///     tensor("lora_unet_conv_out.alpha", &[], &[0.5]),
/// ])?, None)?;
/// let lora = file.fit(LoraPart::UNet, &unet)?;
/// assert_eq!(file.report()?.applied, 1);
/// assert_eq!(unet.merged(&lora, 1.0)?.floats("conv_out.weight")?, [2.0, 5.0]);
/// # Ok::<(), dmd_weights::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct LoraFile {
    tensors: Tensors,
    layers: BTreeMap<String, Layer>,
    metadata: Option<Map<String, Value>>,
    config: Option<Map<String, Value>>,
    used: BTreeSet<String>,
    found: Vec<(usize, f64)>,
    repeated: Vec<String>,
    silent: usize,
    zero: usize,
}

/// The keys of one layer's update.
#[derive(Debug, Clone, Default)]
struct Layer {
    down: Option<String>,
    up: Option<String>,
    alpha: Option<String>,
    scale: Option<String>,
}

impl LoraFile {
    /// Opens a LoRA file, and the `adapter_config.json` in the same folder if it exists.
    ///
    /// # Errors
    ///
    /// As [`read`] and [`Self::open`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let config = path.with_file_name("adapter_config.json");
        Self::open(read(path)?, is_file(&config).then_some(&*config))
    }

    /// Makes the value from the tensors of an opened LoRA file. `config` is the path of the `adapter_config.json` that
    /// belongs to them. It gives the scale of updates in PEFT's spelling.
    ///
    /// # Errors
    ///
    /// [`Error::Lora`] for a file that is no LoRA, or of a kind that cannot be merged; the message names the kind.
    /// [`Error::Json`] for an invalid configuration.
    pub fn open(tensors: Tensors, config: Option<&Path>) -> Result<Self, Error> {
        let refused = |reason: String| Error::Lora { path: tensors.path().to_owned(), reason };
        let names = tensors.entries().keys().map(String::as_str);
        if let Some(reason) = keys::foreign(names.clone()) {
            return Err(refused(reason.to_owned()));
        }
        let mut layers: BTreeMap<String, Layer> = BTreeMap::new();
        for key in names.clone() {
            let Some((stem, role)) = keys::split(key) else { continue };
            let layer = layers.entry(stem.to_owned()).or_default();
            let place = match role {
                Role::Down => &mut layer.down,
                Role::Up => &mut layer.up,
                Role::Alpha => &mut layer.alpha,
                Role::Scale => &mut layer.scale,
            };
            if let Some(other) = place.replace(key.to_owned()) {
                return Err(refused(format!("{other:?} and {key:?} are the same matrix of one layer")));
            }
        }
        for layer in layers.values() {
            let alone = match (&layer.down, &layer.up) {
                (Some(alone), None) | (None, Some(alone)) => alone,
                _ => continue,
            };
            return Err(refused(format!("it is damaged, {alone:?} is there without its counterpart")));
        }
        if !layers.values().any(|layer| layer.down.is_some()) {
            let reason = match names.clone().any(keys::of_model) {
                true => "it is no LoRA but a model, or a part of one; give it as the model",
                false => "it is no LoRA, it has no key that ends in lora_down, lora_A or the like",
            };
            return Err(refused(reason.to_owned()));
        }
        let text = tensors.metadata().get("lora_adapter_metadata");
        let metadata = text.map(|text| crate::parse_json(text)).transpose().map_err(|error| {
            refused(format!("it is damaged, its metadata \"lora_adapter_metadata\" cannot be read: {error}"))
        })?;
        let config = config.map(read_json).transpose()?;
        let (used, found, repeated) = Default::default();
        Ok(Self { tensors, layers, metadata, config, used, found, repeated, silent: 0, zero: 0 })
    }

    /// The file's metadata, e.g. `ss_base_model_version` or `modelspec.title`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        self.tensors.metadata()
    }

    /// Finds the updates for one part of a model, whose weights are `weights`. [`Tensors::merged`] takes the result.
    /// The result may hold no update, because many files have none for text encoders.
    ///
    /// # Errors
    ///
    /// [`Error::Lora`] when the file is made for another family of models, which the message names; [`Error::Mismatch`]
    /// when a matrix does not fit its layer.
    pub fn fit(&mut self, part: LoraPart, weights: &Tensors) -> Result<Lora, Error> {
        if part == LoraPart::UNet {
            self.same_family(weights)?;
        }
        let settings = self.settings(part)?;
        let spellings = Spellings::new(part, weights);
        let (mut updates, mut mismatch) = (Vec::new(), Mismatch::default());
        for (target, entry) in weights.entries() {
            let Some(name) = target.strip_suffix(".weight").filter(|_| entry.shape.len() > 1) else {
                continue;
            };
            let all = spellings.of(name);
            let mut present = all.into_iter().filter_map(|name| Some((self.layers.get(&name)?, name)));
            let mut present = present.by_ref().filter(|(layer, _)| layer.down.is_some());
            let Some((layer, stem)) = present.next() else { continue };
            let again: Vec<String> = present.map(|(_, stem)| stem).filter(|other| *other != stem).collect();
            let (Some(down), Some(up)) = (layer.down.clone(), layer.up.clone()) else { continue };
            let mut update = Update { target: target.clone(), down, up, alpha: None };
            let Some(shape) = fit(&self.tensors, &update, &entry.shape, &mut mismatch) else { continue };
            let rank = shape.rank as f64;
            let factor = match (&layer.scale, &layer.alpha) {
                (Some(scale), _) => Some(self.number(scale)?),
                (None, Some(alpha)) => Some(self.number(alpha)? / rank),
                (None, None) if keys::is_peft(&update.down) => {
                    settings.as_ref().and_then(|s| s.factor(name, shape.rank))
                }
                (None, None) => None,
            };
            update.alpha = factor.map(|factor| factor * rank);
            // The same part may be read twice, for the teacher and for the generator. It is counted once.
            if self.used.insert(stem) {
                self.silent += usize::from(factor.is_none());
                self.zero += usize::from(factor == Some(0.0));
                self.found.push((shape.rank, factor.unwrap_or(1.0)));
                self.repeated.extend(again);
            }
            updates.push(update);
        }
        match mismatch.is_empty() {
            true => Ok(Lora { tensors: self.tensors.clone(), updates }),
            false => Err(Error::Mismatch { path: self.tensors.path().to_owned(), mismatch }),
        }
    }

    /// Reports which updates were used. Call it after [`Self::fit`] for every part.
    ///
    /// # Errors
    ///
    /// [`Error::Lora`] when no update was used, because a file that changes nothing is a mistake.
    pub fn report(&self) -> Result<LoraReport, Error> {
        if self.found.is_empty() {
            let family = self.text_width().map_or(String::new(), |width| {
                format!("; its layers are those of {}", keys::made_for(width))
            });
            let first = self.tensors.entries().keys().next().cloned().unwrap_or_default();
            let reason = format!(
                "none of its {} keys belongs to a layer of this model (the first is {first:?}){family}",
                self.tensors.entries().len()
            );
            return Err(self.refused(reason));
        }
        let range = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
        };
        let ranks = range(&mut self.found.iter().map(|(rank, _)| *rank as f64));
        let mut notes = Vec::new();
        if self.silent > 0 {
            notes.push(self.silence((ranks.0 as usize, ranks.1 as usize)));
        }
        if self.zero > 0 {
            notes.push(format!(
                "alpha is 0 in {} layers, which therefore have no effect, as in diffusers",
                self.zero
            ));
        }
        if let Some(first) = self.repeated.first() {
            notes.push(format!(
                "{} layers are there in two spellings, of which one is used; {first:?} is not",
                self.repeated.len()
            ));
        }
        let unused = |key: &&String| keys::split(key).is_none_or(|(stem, _)| !self.used.contains(stem));
        Ok(LoraReport {
            applied: self.found.len(),
            rank: (ranks.0 as usize, ranks.1 as usize),
            factor: range(&mut self.found.iter().map(|(_, factor)| *factor)),
            unused: self.tensors.entries().keys().filter(unused).cloned().collect(),
            notes,
        })
    }

    /// The note in the report for a file without alpha.
    fn silence(&self, ranks: (usize, usize)) -> String {
        let name = self.tensors.path().file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if ranks == (64, 64) && name.contains("dmd2") {
            return "the file has no alpha, and DMD2's LoRA of rank 64 has alpha 8: it acts 8 times as strongly as it \
                    should; fetch the file again, or use a strength of 0.125"
                .to_owned();
        }
        format!("the file says no alpha for {} layers; it is taken to be their rank (factor 1)", self.silent)
    }

    fn refused(&self, reason: String) -> Error {
        Error::Lora { path: self.tensors.path().to_owned(), reason }
    }

    /// The configuration of a part's updates, from the file's own metadata or else from the `adapter_config.json`.
    fn settings(&self, part: LoraPart) -> Result<Option<Settings>, Error> {
        let own = self.metadata.as_ref().map(|entries| (entries, part.prefix()));
        let beside = self.config.as_ref().map(|entries| (entries, ""));
        let settings = own.or(beside).map(|(entries, prefix)| Settings::new(entries, prefix));
        settings.transpose().map_err(|reason| self.refused(reason))
    }

    /// Reads the single number that a tensor holds.
    fn number(&self, name: &str) -> Result<f64, Error> {
        let integer =
            self.tensors.entries().get(name).is_some_and(|e| matches!(e.dtype, Dtype::I64 | Dtype::I32));
        let number = match integer {
            true => self.tensors.integers(name)?.first().map(|value| *value as f64),
            false => self.tensors.floats(name)?.first().map(|value| f64::from(*value)),
        };
        let number = number.filter(|number| number.is_finite());
        number.ok_or_else(|| self.refused(format!("{name:?} is no finite number")))
    }

    /// The width of the text features that the file's layers take.
    fn text_width(&self) -> Option<usize> {
        let down = self
            .layers
            .iter()
            .find(|(stem, _)| keys::takes_text(stem))
            .and_then(|(_, layer)| layer.down.as_ref());
        self.tensors.entries().get(down?)?.shape.get(1).copied()
    }

    fn same_family(&self, unet: &Tensors) -> Result<(), Error> {
        let model = unet.entries().iter().find(|(name, _)| name.ends_with("attn2.to_k.weight"));
        match (self.text_width(), model.and_then(|(_, entry)| entry.shape.get(1).copied())) {
            (Some(own), Some(model)) if own != model => Err(self.refused(format!(
                "it is made for {}, and the model is {}",
                keys::made_for(own),
                keys::made_for(model)
            ))),
            _ => Ok(()),
        }
    }
}
