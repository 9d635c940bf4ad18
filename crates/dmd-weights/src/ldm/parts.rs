//! Finds the parts of a single file by their prefixes, and renames their tensors.

use std::collections::BTreeMap;

use super::names::{OpenClip, UNetNames, autoencoder, open_clip};
use super::{Part, Spelling};
use crate::entry::Entry;
use crate::{Error, Tensors};

/// A part that was found in the file.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) spelling: Spelling,
    pub(super) prefix: String,
    /// The part's tensors under the names that diffusers and transformers use today.
    pub(super) tensors: Tensors,
    /// Names in the file of all tensors of the part, including those that the part does not need.
    pub(super) used: Vec<String>,
    /// Today's name by the name in the file, for each tensor that becomes exactly one tensor.
    renamed: BTreeMap<String, String>,
}

impl Found {
    fn new(spelling: Spelling, prefix: &str) -> Self {
        let (tensors, used, renamed) = Default::default();
        Self { spelling, prefix: prefix.to_owned(), tensors, used, renamed }
    }
}

/// What a tensor of the file becomes under today's names.
enum Becomes {
    Named(String, Entry),
    Several(Vec<(String, Entry)>),
    /// The tensor belongs to the network of the file, but this implementation does not need it.
    Nothing,
}

/// Collects the tensors whose names begin with the prefix into a part. `becomes` says what each of them becomes, or
/// returns `None` for a tensor that does not belong to the part.
fn found(
    file: &Tensors,
    (spelling, prefix): (Spelling, &str),
    becomes: impl Fn(&str, &Entry) -> Option<Becomes>,
) -> Result<Found, Error> {
    let mut found = Found::new(spelling, prefix);
    let mut entries = Vec::new();
    for (name, entry) in file.entries() {
        let Some(becomes) = name.strip_prefix(prefix).and_then(|rest| becomes(rest, entry)) else { continue };
        found.used.push(name.clone());
        match becomes {
            Becomes::Named(today, entry) => {
                found.renamed.insert(name.clone(), today.clone());
                entries.push((today, entry));
            }
            Becomes::Several(several) => entries.extend(several),
            Becomes::Nothing => {}
        }
    }
    found.tensors = Tensors::from_entries(file.path().to_owned(), entries, file.bytes())?
        .with_metadata(file.metadata().clone());
    Ok(found)
}

/// Finds the UNet, under one of the usual prefixes or none, with latent diffusion names or diffusers' names.
pub(super) fn unet(file: &Tensors) -> Result<Option<Found>, Error> {
    for prefix in ["model.diffusion_model.", "diffusion_model.", "unet.", ""] {
        let has = |name: &str| file.entries().contains_key(&format!("{prefix}{name}"));
        let rest = || file.entries().keys().filter_map(|name| name.strip_prefix(prefix));
        if has("input_blocks.0.0.weight") {
            let names = UNetNames::of_ldm(rest());
            let becomes = |name: &str, entry: &Entry| {
                let today = names.to_diffusers(name)?;
                Some(Becomes::Named(today, entry.clone()))
            };
            return found(file, (Spelling::LatentDiffusion, prefix), becomes).map(Some);
        }
        let levels = rest().any(|name| name.starts_with("down_blocks."));
        if levels && has("conv_in.weight") {
            let inside = [
                "down_blocks.",
                "up_blocks.",
                "mid_block.",
                "conv_in.",
                "conv_norm_out.",
                "conv_out.",
                "time_embedding.",
                "add_embedding.",
                // Networks with these tensors are refused later, with a message about them.
                "class_embedding.",
                "encoder_hid_proj.",
            ];
            let becomes = |name: &str, entry: &Entry| {
                let known = inside.iter().any(|inside| name.starts_with(inside));
                known.then(|| Becomes::Named(name.to_owned(), entry.clone()))
            };
            return found(file, (Spelling::Diffusers, prefix), becomes).map(Some);
        }
    }
    Ok(None)
}

/// Finds the moving average of a UNet, and the names of its tensors in the file. Returns `None` unless the file holds
/// all of it. Its names are those of the UNet without dots.
pub(super) fn average(file: &Tensors, unet: &Found) -> Option<(Tensors, Vec<String>)> {
    let (mut entries, mut used) = (BTreeMap::new(), Vec::new());
    for (name, today) in &unet.renamed {
        let flat = format!("model_ema.{}", name.strip_prefix("model.").unwrap_or(name).replace('.', ""));
        let plain = unet.tensors.entries().get(today)?;
        let entry = file.entries().get(&flat)?.reshaped(plain.shape.clone())?;
        entries.insert(today.clone(), entry);
        used.push(flat);
    }
    Some((Tensors::new(file.path().to_owned(), entries, file.bytes()), used))
}

/// Finds the autoencoder.
pub(super) fn vae(file: &Tensors) -> Result<Option<Found>, Error> {
    for prefix in ["first_stage_model.", "vae.", ""] {
        let rest = || file.entries().keys().filter_map(|name| name.strip_prefix(prefix));
        if !rest().any(|name| matches!(name, "decoder.conv_in.weight" | "encoder.conv_in.weight")) {
            continue;
        }
        let today =
            ["encoder.down_blocks.", "decoder.up_blocks.", "encoder.mid_block.", "decoder.mid_block."];
        if rest().any(|name| today.iter().any(|today| name.starts_with(today))) {
            let inside = ["encoder.", "decoder.", "quant_conv.", "post_quant_conv."];
            let becomes = |name: &str, entry: &Entry| {
                let known = inside.iter().any(|inside| name.starts_with(inside));
                known.then(|| Becomes::Named(name.to_owned(), entry.clone()))
            };
            return found(file, (Spelling::Diffusers, prefix), becomes).map(Some);
        }
        let level = |name: &str| name.strip_prefix("decoder.up.")?.split('.').next()?.parse::<usize>().ok();
        let levels = rest().filter_map(level).max().map_or(0, |last| last + 1);
        let becomes = |name: &str, entry: &Entry| {
            let today = autoencoder(name, levels)?;
            // In latent diffusion files the attention consists of 1×1 convolutions.
            let matrix = match *entry.shape.as_slice() {
                [out, inputs, 1, 1] if today.contains(".attentions.") => entry.reshaped(vec![out, inputs])?,
                _ => entry.clone(),
            };
            Some(Becomes::Named(today, matrix))
        };
        return found(file, (Spelling::LatentDiffusion, prefix), becomes).map(Some);
    }
    Ok(None)
}

/// Finds the text encoders. Each comes with the kind of part that it is.
pub(super) fn text_encoders(file: &Tensors) -> Result<Vec<(Part, Found)>, Error> {
    let firsts = [
        "conditioner.embedders.0.transformer.",
        "conditioner.embedders.0.model.",
        "cond_stage_model.transformer.",
        "cond_stage_model.model.",
        "text_encoders.clip_l.transformer.",
        "text_encoder.",
    ];
    let seconds = [
        "conditioner.embedders.1.model.",
        "conditioner.embedders.1.transformer.",
        "text_encoders.clip_g.transformer.",
        "text_encoder_2.",
    ];
    let mut all = Vec::new();
    for (part, prefixes) in [(Part::TextEncoder, firsts.as_slice()), (Part::TextEncoder2, &seconds)] {
        if let Some((prefix, spelling)) =
            prefixes.iter().find_map(|prefix| Some((*prefix, clip(file, prefix)?)))
        {
            all.push((part, text_encoder(file, (spelling, prefix), part)?));
        }
    }
    if !all.is_empty() {
        return Ok(all);
    }
    let Some((prefix, spelling)) =
        ["", "model."].iter().find_map(|prefix| Some((*prefix, clip(file, prefix)?)))
    else {
        return Ok(all);
    };
    let table = [
        "token_embedding.weight",
        "embeddings.token_embedding.weight",
        "text_model.embeddings.token_embedding.weight",
    ];
    let named = |name: &str| file.entries().get(&format!("{prefix}{name}"));
    let width = table.iter().find_map(|name| named(name)?.shape.get(1).copied());
    let projects = named("text_projection").or(named("text_projection.weight")).is_some();
    let part = match width {
        Some(768 | 1024) => Part::TextEncoder,
        Some(1280) => Part::TextEncoder2,
        _ if projects => Part::TextEncoder2,
        _ => Part::TextEncoder,
    };
    Ok(vec![(part, text_encoder(file, (spelling, prefix), part)?)])
}

/// The spelling of the text encoder under a prefix, or `None` if there is no text encoder.
fn clip(file: &Tensors, prefix: &str) -> Option<Spelling> {
    let has = |name: &str| file.entries().contains_key(&format!("{prefix}{name}"));
    if has("transformer.resblocks.0.ln_1.weight") {
        return Some(Spelling::OpenClip);
    }
    let first = "encoder.layers.0.self_attn.q_proj.weight";
    (has(first) || has(&format!("text_model.{first}"))).then_some(Spelling::Transformers)
}

fn text_encoder(file: &Tensors, (spelling, prefix): (Spelling, &str), part: Part) -> Result<Found, Error> {
    // transformers writes the names of the second text encoder with `text_model.`, except that of its projection, and
    // the names of the first without it.
    let second = part == Part::TextEncoder2;
    let named = |name: &str| match name {
        "text_projection.weight" => name.to_owned(),
        _ if second => format!("text_model.{name}"),
        _ => name.to_owned(),
    };
    let layers = file
        .entries()
        .keys()
        .filter_map(|name| block(name.strip_prefix(prefix)?))
        .max()
        .map_or(0, |last| last + 1);
    // Only Stable Diffusion 2.x has open_clip's text encoder as its first one. It does not use the last of the 24
    // blocks, which files with transformers' names may lack.
    let cut = !second && (spelling == Spelling::OpenClip || layers == 24);
    let used = if cut { layers.saturating_sub(1) } else { layers };
    let idle = |name: &str| name.ends_with("position_ids") || name == "logit_scale" || name == "attn_mask";
    found(file, (spelling, prefix), |name, entry| {
        let last = block(name).is_some_and(|layer| layer >= used);
        if idle(name) || last || (!second && name.starts_with("text_projection")) {
            return Some(Becomes::Nothing);
        }
        if spelling == Spelling::Transformers {
            let core = name.strip_prefix("text_model.").unwrap_or(name);
            let inside = ["embeddings.", "encoder.", "final_layer_norm.", "text_projection."];
            let known = inside.iter().any(|inside| core.starts_with(inside));
            return known.then(|| Becomes::Named(named(core), entry.clone()));
        }
        Some(match open_clip(name)? {
            OpenClip::Same(today) => Becomes::Named(named(&today), entry.clone()),
            OpenClip::Transposed(today) => Becomes::Named(named(&today), entry.transposed()?),
            OpenClip::Packed(names) => {
                let parts =
                    names.iter().enumerate().map(|(i, today)| Some((named(today), entry.rows(i, 3)?)));
                Becomes::Several(parts.collect::<Option<_>>()?)
            }
        })
    })
}

/// The index of the block that a tensor belongs to.
fn block(name: &str) -> Option<usize> {
    let core = name.strip_prefix("text_model.").unwrap_or(name);
    let rest = core.strip_prefix("transformer.resblocks.").or(core.strip_prefix("encoder.layers."))?;
    rest.split('.').next()?.parse().ok()
}
