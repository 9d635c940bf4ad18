//! Converts the names of tensors in single files. For the UNet it converts between CompVis' "latent diffusion" names
//! and diffusers' names, in both directions. For the autoencoder and for open_clip's text encoders it converts to the
//! names of diffusers and transformers.

use std::collections::BTreeSet;

/// Names inside a residual block, `(latent diffusion, diffusers)`.
const RESNET: [(&str, &str); 6] = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

/// Names outside the residual blocks and attentions with an index, `(latent diffusion, diffusers)`.
const OUTSIDE: [(&str, &str); 8] = [
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
    ("middle_block.1", "mid_block.attentions.0"),
];

/// Converts the names of a UNet. In latent diffusion names, which block a number stands for depends on the number of
/// residual blocks per level.
#[derive(Debug, Clone)]
pub(crate) struct UNetNames {
    /// How many numbers one level takes: one for each residual block and one for the downsampler of a down block, or
    /// one for each residual block of an up block.
    per_level: usize,
    /// Up blocks that have attention. Their upsampler comes third in its number, otherwise second.
    attention_up: BTreeSet<usize>,
}

impl UNetNames {
    /// Reads the structure of a UNet with latent diffusion names.
    pub(crate) fn of_ldm<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let sampler = |name: &str| {
            let (number, rest) = name.strip_prefix("input_blocks.")?.split_once('.')?;
            rest.starts_with("0.op.").then(|| number.parse().ok()).flatten()
        };
        let per_level = names.filter_map(sampler).min().unwrap_or(3);
        Self { per_level, attention_up: BTreeSet::new() }
    }

    /// Reads the structure of a UNet with diffusers' names.
    pub(crate) fn of_diffusers<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let (mut resnets, mut attention_up) = (0, BTreeSet::new());
        for name in names {
            if let Some(rest) = name.strip_prefix("down_blocks.0.resnets.") {
                resnets = resnets.max(number(rest).map_or(0, |(last, _)| last + 1));
            }
            if let Some((level, "attentions", _)) = name.strip_prefix("up_blocks.").and_then(place) {
                attention_up.insert(level);
            }
        }
        Self { per_level: resnets + 1, attention_up }
    }

    /// Converts a latent diffusion name to diffusers' name. Returns `None` for a name of another kind.
    pub(crate) fn to_diffusers(&self, name: &str) -> Option<String> {
        if let Some(found) = exchanged(name, &OUTSIDE, |pair| *pair) {
            return Some(found);
        }
        let resnet = |rest: &str| exchanged(rest, &RESNET, |pair| *pair);
        let n = self.per_level.max(1);
        if let Some((block, part, rest)) = name.strip_prefix("input_blocks.").and_then(numbers) {
            let (level, layer) = (block.checked_sub(1)? / n, (block - 1) % n);
            return match (part, rest.strip_prefix("op.")) {
                (0, Some(rest)) => Some(format!("down_blocks.{level}.downsamplers.0.conv.{rest}")),
                (0, None) => Some(format!("down_blocks.{level}.resnets.{layer}.{}", resnet(rest)?)),
                (1, None) => Some(format!("down_blocks.{level}.attentions.{layer}.{rest}")),
                _ => None,
            };
        }
        if let Some((block, part, rest)) = name.strip_prefix("output_blocks.").and_then(numbers) {
            let (level, layer) = (block / n, block % n);
            return match (part, rest.strip_prefix("conv.")) {
                (1 | 2, Some(rest)) => Some(format!("up_blocks.{level}.upsamplers.0.conv.{rest}")),
                (0, None) => Some(format!("up_blocks.{level}.resnets.{layer}.{}", resnet(rest)?)),
                (1, None) => Some(format!("up_blocks.{level}.attentions.{layer}.{rest}")),
                _ => None,
            };
        }
        let (part, rest) = number(name.strip_prefix("middle_block.")?)?;
        matches!(part, 0 | 2).then(|| Some(format!("mid_block.resnets.{}.{}", part / 2, resnet(rest)?)))?
    }

    /// Converts a diffusers name to the latent diffusion name. Returns `None` for a name of another kind.
    pub(crate) fn to_ldm(&self, name: &str) -> Option<String> {
        let swapped = |(ldm, diffusers): &(&'static str, &'static str)| (*diffusers, *ldm);
        if let Some(found) = exchanged(name, &OUTSIDE, swapped) {
            return Some(found);
        }
        let resnet = |rest: &str| exchanged(rest, &RESNET, swapped);
        let n = self.per_level;
        if let Some((level, kind, rest)) = name.strip_prefix("down_blocks.").and_then(place) {
            let (layer, rest) = number(rest)?;
            let block = 1 + level * n + layer;
            return match kind {
                "resnets" => Some(format!("input_blocks.{block}.0.{}", resnet(rest)?)),
                "attentions" => Some(format!("input_blocks.{block}.1.{rest}")),
                "downsamplers" => {
                    Some(format!("input_blocks.{}.0.op.{}", (level + 1) * n, rest.strip_prefix("conv.")?))
                }
                _ => None,
            };
        }
        if let Some((level, kind, rest)) = name.strip_prefix("up_blocks.").and_then(place) {
            let (layer, rest) = number(rest)?;
            let block = level * n + layer;
            return match kind {
                "resnets" => Some(format!("output_blocks.{block}.0.{}", resnet(rest)?)),
                "attentions" => Some(format!("output_blocks.{block}.1.{rest}")),
                "upsamplers" => {
                    let part = if self.attention_up.contains(&level) { 2 } else { 1 };
                    let block = level * n + n - 1;
                    Some(format!("output_blocks.{block}.{part}.conv.{}", rest.strip_prefix("conv.")?))
                }
                _ => None,
            };
        }
        let (resnet_number, rest) = number(name.strip_prefix("mid_block.resnets.")?)?;
        Some(format!("middle_block.{}.{}", 2 * resnet_number, resnet(rest)?))
    }
}

/// Replaces the beginning of a name: where it is one side of a pair, it becomes the other side.
fn exchanged<'a>(
    name: &str,
    pairs: &'a [(&'static str, &'static str)],
    order: impl Fn(&'a (&'static str, &'static str)) -> (&'static str, &'static str),
) -> Option<String> {
    pairs.iter().map(order).find_map(|(from, to)| {
        let rest = name.strip_prefix(from).filter(|rest| rest.starts_with('.'))?;
        Some(format!("{to}{rest}"))
    })
}

/// Splits `3.rest` into the number and the rest.
fn number(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// Splits `3.1.rest` into two numbers and the rest.
fn numbers(name: &str) -> Option<(usize, usize, &str)> {
    let (first, rest) = number(name)?;
    let (second, rest) = number(rest)?;
    Some((first, second, rest))
}

/// Splits `1.resnets.rest` into a number, a kind and the rest.
fn place(name: &str) -> Option<(usize, &str, &str)> {
    let (level, rest) = number(name)?;
    let (kind, rest) = rest.split_once('.')?;
    Some((level, kind, rest))
}

/// Converts an autoencoder's latent diffusion name to diffusers' name. `levels` is the number of levels of the decoder.
pub(crate) fn autoencoder(name: &str, levels: usize) -> Option<String> {
    let outside = ["quant_conv.", "post_quant_conv."];
    if outside.iter().any(|prefix| name.starts_with(prefix)) {
        return Some(name.to_owned());
    }
    let (half, rest) = name.split_once('.').filter(|(half, _)| matches!(*half, "encoder" | "decoder"))?;
    if rest.starts_with("conv_in.") || rest.starts_with("conv_out.") {
        return Some(name.to_owned());
    }
    if let Some(rest) = rest.strip_prefix("norm_out.") {
        return Some(format!("{half}.conv_norm_out.{rest}"));
    }
    let resnet = |rest: &str| match rest.strip_prefix("nin_shortcut.") {
        Some(rest) => Some(format!("conv_shortcut.{rest}")),
        None => ["norm1.", "conv1.", "norm2.", "conv2."]
            .iter()
            .any(|inside| rest.starts_with(inside))
            .then(|| rest.to_owned()),
    };
    if let Some(rest) = rest.strip_prefix("mid.") {
        let (part, rest) = rest.split_once('.')?;
        return match part {
            "block_1" => Some(format!("{half}.mid_block.resnets.0.{}", resnet(rest)?)),
            "block_2" => Some(format!("{half}.mid_block.resnets.1.{}", resnet(rest)?)),
            "attn_1" => {
                let pairs = [
                    ("norm", "group_norm"),
                    ("q", "to_q"),
                    ("k", "to_k"),
                    ("v", "to_v"),
                    ("proj_out", "to_out.0"),
                ];
                let (theirs, value) = rest.split_once('.')?;
                let ours = pairs.iter().find(|pair| pair.0 == theirs)?.1;
                Some(format!("{half}.mid_block.attentions.0.{ours}.{value}"))
            }
            _ => None,
        };
    }
    let (level, kind, rest) = match half {
        "encoder" => rest.strip_prefix("down.").and_then(place)?,
        _ => rest.strip_prefix("up.").and_then(place)?,
    };
    let level = if half == "encoder" { level } else { levels.checked_sub(level + 1)? };
    match (half, kind) {
        ("encoder", "block") => {
            let (layer, rest) = number(rest)?;
            Some(format!("encoder.down_blocks.{level}.resnets.{layer}.{}", resnet(rest)?))
        }
        ("decoder", "block") => {
            let (layer, rest) = number(rest)?;
            Some(format!("decoder.up_blocks.{level}.resnets.{layer}.{}", resnet(rest)?))
        }
        ("encoder", "downsample") => Some(format!("encoder.down_blocks.{level}.downsamplers.0.{rest}")),
        ("decoder", "upsample") => Some(format!("decoder.up_blocks.{level}.upsamplers.0.{rest}")),
        _ => None,
    }
}

/// What a tensor of open_clip's text encoder becomes in transformers' text encoder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OpenClip {
    /// One tensor of this name.
    Same(String),
    /// Three tensors, which are stored one after another along the rows.
    Packed([String; 3]),
    /// The transposed tensor, under this name.
    Transposed(String),
}

/// Converts the name of a tensor of open_clip's text encoder to transformers' names, without `text_model.`.
pub(crate) fn open_clip(name: &str) -> Option<OpenClip> {
    let plain = match name {
        "positional_embedding" => Some("embeddings.position_embedding.weight"),
        "token_embedding.weight" => Some("embeddings.token_embedding.weight"),
        "ln_final.weight" => Some("final_layer_norm.weight"),
        "ln_final.bias" => Some("final_layer_norm.bias"),
        "text_projection.weight" => Some("text_projection.weight"),
        _ => None,
    };
    if let Some(plain) = plain {
        return Some(OpenClip::Same(plain.to_owned()));
    }
    if name == "text_projection" {
        return Some(OpenClip::Transposed("text_projection.weight".to_owned()));
    }
    let (layer, rest) = number(name.strip_prefix("transformer.resblocks.")?)?;
    for value in ["weight", "bias"] {
        if rest == format!("attn.in_proj_{value}") {
            let names =
                ["q", "k", "v"].map(|which| format!("encoder.layers.{layer}.self_attn.{which}_proj.{value}"));
            return Some(OpenClip::Packed(names));
        }
    }
    let pairs = [
        ("ln_1", "layer_norm1"),
        ("ln_2", "layer_norm2"),
        ("attn.out_proj", "self_attn.out_proj"),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
    ];
    let rest = exchanged(rest, &pairs, |pair| *pair)?;
    Some(OpenClip::Same(format!("encoder.layers.{layer}.{rest}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Converts names of all rows of the tables, in both directions, with two residual blocks per level and with one.
    #[test]
    fn unet_names_go_both_ways() {
        let names = UNetNames { per_level: 3, attention_up: [1, 2, 3].into() };
        for (ldm, diffusers) in [
            ("input_blocks.0.0.weight", "conv_in.weight"),
            ("time_embed.2.bias", "time_embedding.linear_2.bias"),
            ("label_emb.0.2.weight", "add_embedding.linear_2.weight"),
            ("input_blocks.1.0.in_layers.2.weight", "down_blocks.0.resnets.0.conv1.weight"),
            ("input_blocks.3.0.op.weight", "down_blocks.0.downsamplers.0.conv.weight"),
            ("input_blocks.9.0.op.bias", "down_blocks.2.downsamplers.0.conv.bias"),
            ("input_blocks.11.0.emb_layers.1.bias", "down_blocks.3.resnets.1.time_emb_proj.bias"),
            ("input_blocks.5.1.proj_in.weight", "down_blocks.1.attentions.1.proj_in.weight"),
            ("middle_block.0.out_layers.3.bias", "mid_block.resnets.0.conv2.bias"),
            ("middle_block.1.norm.bias", "mid_block.attentions.0.norm.bias"),
            ("middle_block.2.in_layers.0.bias", "mid_block.resnets.1.norm1.bias"),
            ("output_blocks.2.1.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
            ("output_blocks.5.2.conv.weight", "up_blocks.1.upsamplers.0.conv.weight"),
            ("output_blocks.10.0.skip_connection.weight", "up_blocks.3.resnets.1.conv_shortcut.weight"),
            (
                "output_blocks.11.1.transformer_blocks.0.attn2.to_out.0.bias",
                "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0.bias",
            ),
            ("out.2.weight", "conv_out.weight"),
        ] {
            assert_eq!(names.to_diffusers(ldm).as_deref(), Some(diffusers));
            assert_eq!(names.to_ldm(diffusers).as_deref(), Some(ldm));
        }
        let names = UNetNames { per_level: 2, attention_up: BTreeSet::new() };
        assert_eq!(
            names.to_diffusers("input_blocks.2.0.op.bias").as_deref(),
            Some("down_blocks.0.downsamplers.0.conv.bias")
        );
        for foreign in
            ["input_blocks.1.2.x.weight", "betas", "output_blocks.0.0.unknown.weight", "middle_block.3.a"]
        {
            assert_eq!(names.to_diffusers(foreign), None, "{foreign}");
        }
    }
}
