//! Single files, which hold a whole model or a part of one, under the tensor names of the program that wrote them.

mod names;
mod parts;
mod recognise;

use std::collections::{BTreeMap, BTreeSet};

use safetensors::Dtype;

pub(crate) use names::UNetNames;

use crate::entry::Entry;
use crate::{Error, Tensors};
use parts::Found;

/// The family of the model in a single file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Stable Diffusion 1.x.
    StableDiffusion1,
    /// Stable Diffusion 2.x.
    StableDiffusion2,
    /// Stable Diffusion XL.
    StableDiffusionXl,
}

/// A part of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The UNet.
    UNet,
    /// The autoencoder.
    Vae,
    /// The text encoder, the first one of Stable Diffusion XL.
    TextEncoder,
    /// The second text encoder of Stable Diffusion XL.
    TextEncoder2,
}

/// Which program's names the tensors of a part have in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// The names of "latent diffusion", the code of CompVis and Stability.
    LatentDiffusion,
    /// diffusers' names.
    Diffusers,
    /// open_clip's names of a text encoder.
    OpenClip,
    /// transformers' names of a text encoder.
    Transformers,
}

/// A single file that was recognised by its names and shapes. It gives the parts under the names that diffusers and
/// transformers use today. A value is read only when a weight is used.
///
/// ```no_run
/// use dmd_weights::{Checkpoint, Family, Part, read};
/// let file = Checkpoint::open(read("sd_xl_base_1.0.safetensors".as_ref())?)?;
/// assert_eq!(file.family(), Some(Family::StableDiffusionXl));
/// assert!(file.missing().is_empty());
/// let unet = file.unet();
/// # Ok::<(), dmd_weights::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Checkpoint {
    tensors: Tensors,
    family: Option<Family>,
    parts: BTreeMap<Part, Found>,
    average: Option<Tensors>,
    v_prediction: Option<bool>,
    zero_terminal_snr: bool,
    scaled: bool,
    leftover: Vec<String>,
}

impl Checkpoint {
    /// Recognises a file by its names and shapes: a whole model of Stable Diffusion 1.x, 2.x or XL, or some of its
    /// parts.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] for a file of another kind; the message says which kind, and what to do. [`Error::Index`]
    /// when two tensors are the same parameter.
    pub fn open(mut tensors: Tensors) -> Result<Self, Error> {
        // A training's checkpoint holds the model's state dict beside other entries, and sometimes a state dict inside
        // another.
        while tensors.entries().keys().any(|name| name.starts_with("state_dict.")) {
            tensors = tensors.only("state_dict.");
        }
        let path = tensors.path().to_owned();
        let refused = |reason: String| Error::Checkpoint { path: path.clone(), reason };
        recognise::foreign(&tensors).map_err(refused)?;
        let (tensors, scaled) = unscaled(tensors).map_err(refused)?;
        let unet = parts::unet(&tensors)?;
        let family =
            unet.as_ref().map(|found| recognise::family(&found.tensors)).transpose().map_err(refused)?;
        let text = parts::text_encoders(&tensors)?;
        // A file without a UNet can still show its family: a second text encoder means XL, open_clip's text encoder
        // 2.x.
        let shown = text.iter().find_map(|(part, found)| match (part, found.spelling) {
            (Part::TextEncoder2, _) => Some(Family::StableDiffusionXl),
            (_, Spelling::OpenClip) => Some(Family::StableDiffusion2),
            _ => None,
        });
        let family = family.or(shown);
        let vae = parts::vae(&tensors)?;
        if let Some(found) = &vae {
            recognise::autoencoder(&found.tensors).map_err(refused)?;
        }
        let mut found: BTreeMap<Part, Found> = text.into_iter().collect();
        found.extend(unet.map(|unet| (Part::UNet, unet)));
        found.extend(vae.map(|vae| (Part::Vae, vae)));
        if found.is_empty() {
            return Err(refused(recognise::unknown(&tensors)));
        }
        let average = found.get(&Part::UNet).and_then(|unet| parts::average(&tensors, unet));
        let (average, averaged) = average.unzip();
        let marks = ["v_pred", "ztsnr"].map(|mark| tensors.entries().contains_key(mark));
        let used: BTreeSet<&String> =
            found.values().flat_map(|part| &part.used).chain(averaged.iter().flatten()).collect();
        let leftover = tensors.entries().keys().filter(|name| !used.contains(name) && !recognise::idle(name));
        let leftover = leftover.cloned().collect();
        let said = tensors.metadata().get("modelspec.prediction_type").map(String::as_str);
        let v_prediction = match said {
            _ if marks[0] => Some(true),
            Some("v" | "v_prediction") => Some(true),
            Some("epsilon") => Some(false),
            _ => None,
        };
        let (parts, zero_terminal_snr) = (found, marks[1]);
        Ok(Self { tensors, family, parts, average, v_prediction, zero_terminal_snr, scaled, leftover })
    }

    /// The family, or `None` where the file does not show it: an autoencoder or a text encoder alone may belong to
    /// several families.
    pub fn family(&self) -> Option<Family> {
        self.family
    }

    /// The parts that the file holds, each with the spelling of its names in the file.
    pub fn parts(&self) -> impl Iterator<Item = (Part, Spelling)> {
        self.parts.iter().map(|(part, found)| (*part, found.spelling))
    }

    /// The prefix of a part's names in the file.
    pub fn prefix(&self, part: Part) -> Option<&str> {
        self.parts.get(&part).map(|found| found.prefix.as_str())
    }

    /// The parts of a whole model of this family that the file does not hold. They have to come from other files.
    pub fn missing(&self) -> Vec<Part> {
        let mut wanted = vec![Part::UNet, Part::Vae, Part::TextEncoder];
        if self.family == Some(Family::StableDiffusionXl) {
            wanted.push(Part::TextEncoder2);
        }
        wanted.retain(|part| !self.parts.contains_key(part));
        wanted
    }

    /// A part, under the names that diffusers and transformers use today.
    pub fn part(&self, part: Part) -> Option<Tensors> {
        self.parts.get(&part).map(|found| found.tensors.clone())
    }

    /// The UNet under diffusers' names.
    pub fn unet(&self) -> Option<Tensors> {
        self.part(Part::UNet)
    }

    /// The UNet's moving average ("EMA") under diffusers' names, where the file holds it beside the plain weights.
    pub fn unet_average(&self) -> Option<Tensors> {
        self.average.clone()
    }

    /// The autoencoder under diffusers' names.
    pub fn vae(&self) -> Option<Tensors> {
        self.part(Part::Vae)
    }

    /// The text encoder, or the first of two, under transformers' names. For Stable Diffusion 2.x it lacks the last
    /// block, which the model does not use.
    pub fn text_encoder(&self) -> Option<Tensors> {
        self.part(Part::TextEncoder)
    }

    /// The second text encoder of Stable Diffusion XL under transformers' names.
    pub fn text_encoder_2(&self) -> Option<Tensors> {
        self.part(Part::TextEncoder2)
    }

    /// Whether the UNet predicts v, according to a tensor `v_pred` or the metadata. `None` where the file says nothing,
    /// as files of Stable Diffusion 2.x usually do.
    pub fn v_prediction(&self) -> Option<bool> {
        self.v_prediction
    }

    /// Whether the file has a tensor `ztsnr`, which says that the noise schedule ends in pure noise.
    pub fn zero_terminal_snr(&self) -> bool {
        self.zero_terminal_snr
    }

    /// Whether the weights are stored in 8 bits with a scale each ("scaled fp8"). The parts' weights are already
    /// multiplied by it.
    pub fn scaled(&self) -> bool {
        self.scaled
    }

    /// The types of the stored weights, each with its number of tensors.
    pub fn types(&self) -> Vec<(Dtype, usize)> {
        let mut types: BTreeMap<Dtype, usize> = BTreeMap::new();
        for entry in self.tensors.entries().values() {
            *types.entry(entry.dtype).or_default() += 1;
        }
        types.into_iter().collect()
    }

    /// The file's metadata, e.g. `modelspec.architecture` or `modelspec.title`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        self.tensors.metadata()
    }

    /// Tensors that belong to no part, without those that no program uses, such as a schedule's tables.
    pub fn leftover(&self) -> &[String] {
        &self.leftover
    }
}

/// Multiplies 8-bit weights by their scales, where the file has such scales, and says whether it has any.
fn unscaled(mut tensors: Tensors) -> Result<(Tensors, bool), String> {
    let ends = [".scale_weight", ".weight_scale"];
    let stem = |name: &str| ends.iter().find_map(|end| name.strip_suffix(end)).map(str::to_owned);
    let scales: Vec<(String, Option<Entry>)> = tensors
        .entries()
        .iter()
        .filter_map(|(name, entry)| Some((stem(name)?, Some(entry.clone()))))
        .collect();
    let marked = tensors.entries().contains_key("scaled_fp8") || !scales.is_empty();
    for (stem, scale) in scales {
        let weight = tensors.entries().get(&format!("{stem}.weight"));
        let product = weight.zip(scale).and_then(|(weight, scale)| weight.scaled(&scale));
        let Some(product) = product else {
            return Err(format!(
                "a file of scaled 8-bit weights in which the scale of {stem:?} does not fit its weight; use the model's \
                 file in 16 bits"
            ));
        };
        tensors.entries_mut().insert(format!("{stem}.weight"), product);
    }
    let scaling = |name: &str| {
        name == "scaled_fp8"
            || stem(name).is_some()
            || [".scale_input", ".input_scale"].iter().any(|end| name.ends_with(end))
    };
    if marked {
        tensors = tensors.select(|name| !scaling(name));
    }
    Ok((tensors, marked))
}
