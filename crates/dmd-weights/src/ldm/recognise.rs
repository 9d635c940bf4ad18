//! Recognises what a file holds, by the names and shapes of its tensors alone.

use std::collections::BTreeMap;

use super::Family;
use crate::Tensors;

/// Returns an error for a file whose names or shapes show that it is of an unsupported kind, before its parts are
/// searched. The reasons continue the sentence "the file is …".
pub(super) fn foreign(file: &Tensors) -> Result<(), String> {
    let names = || file.entries().keys().map(String::as_str);
    let any = |marks: &[&str]| names().any(|name| marks.iter().any(|mark| name.contains(mark)));
    let starts = |marks: &[&str]| {
        let network = |name: &str| {
            let bare =
                ["model.diffusion_model.", "diffusion_model."].iter().find_map(|p| name.strip_prefix(p));
            marks.iter().any(|mark| bare.unwrap_or(name).starts_with(mark))
        };
        names().any(network)
    };
    let few = (1..=2).contains(&file.entries().len());
    let reason = if any(&[".absmax", ".quant_map", ".quant_state.", ".SCB"]) {
        "a model in bitsandbytes' quantisation (NF4 or 8 bits), which is not read; use the model's file in 16 bits"
    } else if any(&[".comfy_quant", ".weight_scale_2"]) {
        "a model in ComfyUI's quantisation, which is not read; use the model's file in 16 bits"
    } else if any(&["string_to_param", "emb_params"])
        || (few && names().all(|name| matches!(name, "clip_l" | "clip_g")))
    {
        "a textual inversion, an embedding for a prompt's word, and no model; open a model, and give this file as its embedding"
    } else if any(&["lllite_unet", "controlnet_cond_embedding", "controlnet_down_blocks", "input_hint_block"])
        || starts(&["control_model."])
    {
        "a ControlNet, which steers a model with a picture, and no model of its own; ControlNets are not supported"
    } else if any(&[
        "lora_down",
        "lora_up",
        "lora_A.",
        "lora_B.",
        "_lora.",
        ".lora.",
        "lora_linear_layer",
        "hada_w",
        "lokr_w",
    ]) || names()
        .any(|name| ["lora_unet_", "lora_te", "lycoris_"].iter().any(|start| name.starts_with(start)))
    {
        "a LoRA, a change to a model and no model of its own; open a model, and give this file as its LoRA"
    } else if starts(&["decoder.layers."])
        || (names().next().is_some()
            && names().all(|name| name.starts_with(|first: char| first.is_ascii_digit())))
    {
        "a tiny autoencoder (TAESD), which takes the place of a model's own; give its diffusers folder as the tiny \
         autoencoder"
    } else if starts(&["image_proj.", "ip_adapter."]) {
        "an IP-Adapter, which gives a model a picture as a prompt, and no model of its own; it is not supported"
    } else if any(&["double_blocks.", "single_transformer_blocks."]) {
        "a Flux model, which is another architecture; Stable Diffusion 1.x, 2.x and XL are supported"
    } else if any(&["joint_blocks."]) {
        "a Stable Diffusion 3 model, which is another architecture; Stable Diffusion 1.x, 2.x and XL are supported"
    } else if any(&["temporal", "motion_modules", "time_stack", "time_mixer"])
        || file.entries().values().any(|entry| entry.shape.len() == 5)
    {
        "a model of videos, which is another architecture; Stable Diffusion 1.x, 2.x and XL are supported"
    } else if any(&["caption_projection", "adaln_single"])
        || starts(&["transformer_blocks.", "blocks.", "layers."])
    {
        "a diffusion transformer, which is another architecture; Stable Diffusion 1.x, 2.x and XL are supported"
    } else if names().any(|name| matches!(name, "edm_mean" | "edm_std")) {
        "Playground 2.5, which scales its latents and noise otherwise; use Stable Diffusion XL or a model made from it"
    } else if names().any(|name| name.starts_with("edm_vpred.")) {
        "CosXL, which scales its noise otherwise; use Stable Diffusion XL or a model made from it"
    } else {
        return Ok(());
    };
    Err(reason.to_owned())
}

/// The family of a UNet under diffusers' names, or the reason why it belongs to no supported family.
pub(super) fn family(unet: &Tensors) -> Result<Family, String> {
    let shape = |name: &str| unet.entries().get(name).map(|entry| entry.shape.as_slice());
    let axis = |name: &str, axis: usize| shape(name)?.get(axis).copied();
    let starts = |prefix: &str| unet.entries().keys().any(|name| name.starts_with(prefix));
    let (first, channels) = (axis("conv_in.weight", 0), axis("conv_in.weight", 1));
    let added = axis("add_embedding.linear_1.weight", 1);
    let unfit = |what: &str, instead: &str| Err(format!("{what}, which is not supported; {instead}"));
    let ordinary = "use the ordinary model of the same name";
    match (first, channels, added) {
        (_, Some(9), _) => return unfit("an inpainting model, whose UNet takes 9 channels", ordinary),
        (_, Some(8), _) => return unfit("an InstructPix2Pix model, whose UNet takes 8 channels", ordinary),
        (_, Some(5), _) => return unfit("a depth model, whose UNet takes 5 channels", ordinary),
        (_, Some(7), _) | (Some(256), _, _) => {
            return unfit("an upscaler of pictures", "use an ordinary model");
        }
        (Some(384), _, _) | (_, _, Some(2560)) => {
            return unfit("the refiner of Stable Diffusion XL", "use the base model");
        }
        (_, _, Some(1536 | 2048)) => return unfit("an unCLIP model, whose prompts are pictures", ordinary),
        (_, Some(3), _) => return unfit("a UNet for pixels", "use a model of latents"),
        _ => {}
    }
    if starts("encoder_hid_proj.") {
        return unfit(
            "a UNet with another input of text, such as Kandinsky's",
            "use Stable Diffusion 1.x, 2.x or XL",
        );
    }
    if starts("class_embedding.") {
        return unfit("a UNet with an input of classes, as upscalers and unCLIP models have", ordinary);
    }
    if starts("time_embedding.cond_proj.") {
        return unfit(
            "a UNet with an input for guidance, such as the full LCM model",
            "open its folder in diffusers' layout, or use the LoRA form of it",
        );
    }
    let found = attention(unet);
    let text = unet.entries().iter().find(|(name, _)| name.ends_with("attn2.to_k.weight"));
    let width = text.and_then(|(_, entry)| entry.shape.get(1).copied());
    let depths = |side: &str, level: usize| found.get(&(side.to_owned(), level)).cloned().unwrap_or_default();
    let (levels, mid) =
        (1 + unet.entries().keys().filter_map(|name| level(name)).max().unwrap_or(0), depths("mid_block", 0));
    let family = match (added, width) {
        (Some(_), _) => Family::StableDiffusionXl,
        (None, Some(768)) => Family::StableDiffusion1,
        (None, Some(1024)) => Family::StableDiffusion2,
        // Other widths are known only from small models for tests. Among these, a linear projection means Stable
        // Diffusion 2.x.
        _ => match unet.entries().iter().find(|(name, _)| name.ends_with(".proj_in.weight")) {
            Some((_, projection)) if projection.shape.len() == 2 => Family::StableDiffusion2,
            _ => Family::StableDiffusion1,
        },
    };
    let down: Vec<Vec<usize>> = (0..levels).map(|level| depths("down_blocks", level)).collect();
    let up: Vec<Vec<usize>> = (0..levels).map(|level| depths("up_blocks", level)).collect();
    let whole = match (family, width) {
        (Family::StableDiffusionXl, Some(2048)) => {
            down == [vec![], vec![2; 2], vec![10; 2]]
                && mid == [10]
                && up == [vec![10; 3], vec![2; 3], vec![]]
        }
        (_, Some(768 | 1024)) => {
            let one = |layers: usize| vec![1; layers];
            down == [one(2), one(2), one(2), vec![]] && mid == [1] && up == [vec![], one(3), one(3), one(3)]
        }
        _ => mid.len() == 1,
    };
    if whole {
        return Ok(family);
    }
    let (name, known) = match family {
        Family::StableDiffusionXl => ("Stable Diffusion XL", "such as SSD-1B, Segmind Vega or KOALA"),
        _ => ("Stable Diffusion", "such as tiny-sd or SDXS"),
    };
    Err(format!(
        "a reduced {name}, {known}, which is not supported (transformer blocks down {down:?}, middle {mid:?}, up {up:?}); use \
         the full model"
    ))
}

/// The number of transformer blocks of every attention, by side (down, middle or up) and level.
fn attention(unet: &Tensors) -> BTreeMap<(String, usize), Vec<usize>> {
    let mut found: BTreeMap<(String, usize), Vec<usize>> = BTreeMap::new();
    for name in unet.entries().keys().filter(|name| name.ends_with(".attn2.to_k.weight")) {
        let parts: Vec<&str> = name.split('.').collect();
        let (side, level, rest) = match parts.as_slice() {
            [side @ "mid_block", rest @ ..] => (*side, 0, rest),
            [side, level, rest @ ..] => (*side, level.parse().unwrap_or(0), rest),
            _ => continue,
        };
        let ["attentions", layer, "transformer_blocks", ..] = rest else { continue };
        let depths = found.entry((side.to_owned(), level)).or_default();
        let layer = layer.parse::<usize>().unwrap_or(0).min(64);
        if depths.len() <= layer {
            depths.resize(layer + 1, 0);
        }
        if let Some(depth) = depths.get_mut(layer) {
            *depth += 1;
        }
    }
    found
}

/// The level of a down block.
fn level(name: &str) -> Option<usize> {
    let level: usize = name.strip_prefix("down_blocks.")?.split('.').next()?.parse().ok()?;
    (level < 64).then_some(level)
}

/// Returns an error for an autoencoder that is not one of Stable Diffusion's.
pub(super) fn autoencoder(vae: &Tensors) -> Result<(), String> {
    let channels = vae.entries().get("decoder.conv_in.weight").and_then(|entry| entry.shape.get(1));
    match channels {
        Some(4) | None => Ok(()),
        Some(channels) => Err(format!(
            "a model with an autoencoder of {channels} latent channels, as Flux and Stable Diffusion 3 have; those of Stable \
             Diffusion 1.x, 2.x and XL have 4"
        )),
    }
}

/// The reason given for a file in which no part was found.
pub(super) fn unknown(file: &Tensors) -> String {
    match file.entries().keys().next() {
        None => "empty, it holds no tensor".to_owned(),
        Some(first) => format!(
            "no model that is known here: of its {} tensors none is named as in a UNet, an autoencoder or a text encoder \
             of Stable Diffusion 1.x, 2.x or XL (the first is {first:?})",
            file.entries().len()
        ),
    }
}

/// Whether a tensor is one that files contain but no program uses.
pub(super) fn idle(name: &str) -> bool {
    let tables = [
        "alphas_cumprod",
        "sqrt_",
        "log_one_minus_",
        "posterior_",
        "embedding_manager.",
        "first_stage_model.loss.",
    ];
    let counters =
        ["model_ema.decay", "model_ema.num_updates", "betas", "logvar", "scale_factor", "v_pred", "ztsnr"];
    let ends = [".position_ids", ".logit_scale", ".attn_mask"];
    counters.contains(&name)
        || matches!(name, "denoiser.sigmas" | "denoiser.log_sigmas" | "log_sigmas" | "sigmas" | "global_step")
        || tables.iter().any(|start| name.starts_with(start))
        || ends.iter().any(|end| name.ends_with(end))
}
