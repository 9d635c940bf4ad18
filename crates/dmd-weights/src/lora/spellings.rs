//! All names that LoRA files use for a layer. A name with underscores cannot be split back into a path ("to_out_0",
//! "time_emb_proj"). The model's layers are therefore spelled in every way, and each spelling is looked up in the file.

use crate::ldm::UNetNames;
use crate::{LoraPart, Tensors};

/// Spells the layers of one part of a model.
pub(super) struct Spellings {
    part: LoraPart,
    unet: UNetNames,
}

impl Spellings {
    /// Makes the spellings for a part with these weights.
    pub(super) fn new(part: LoraPart, weights: &Tensors) -> Self {
        let unet = UNetNames::of_diffusers(weights.entries().keys().map(String::as_str));
        Self { part, unet }
    }

    /// The spellings of a layer, the most explicit first. Where a file has several of them, the first is used.
    pub(super) fn of(&self, layer: &str) -> Vec<String> {
        match self.part {
            LoraPart::UNet => self.unet(layer),
            LoraPart::TextEncoder => {
                text(layer, &["lora_te_", "lora_te1_"], &["text_encoder"], "clip_l", true)
            }
            LoraPart::TextEncoder2 => text(layer, &["lora_te2_"], &["text_encoder_2"], "clip_g", false),
        }
    }

    fn unet(&self, layer: &str) -> Vec<String> {
        let mut all = Vec::new();
        let dotted = ["unet.", "", "base_model.model.unet.", "base_model.model."];
        all.extend(dotted.map(|prefix| format!("{prefix}{layer}")));
        if let Some(processor) = processor(layer) {
            all.extend(["unet.", ""].map(|prefix| format!("{prefix}{processor}")));
        }
        let flat = layer.replace('.', "_");
        all.extend(["lora_unet_", "lycoris_", ""].map(|prefix| format!("{prefix}{flat}")));
        all.push(format!("diffusion_model.{layer}"));
        if let Some(ldm) = self.unet.to_ldm(&format!("{layer}.")) {
            let ldm = ldm.trim_end_matches('.');
            let dotted =
                ["diffusion_model.", "model.diffusion_model.", "base_model.model.diffusion_model.", ""];
            all.extend(dotted.map(|prefix| format!("{prefix}{ldm}")));
            let flat = ldm.replace('.', "_");
            all.extend(["lora_unet_", "lycoris_", ""].map(|prefix| format!("{prefix}{flat}")));
        }
        all
    }
}

/// The name in diffusers' early attention processors, which called `attn1.to_out.0` `attn1.processor.to_out`.
fn processor(layer: &str) -> Option<String> {
    let (attention, matrix) = layer.trim_end_matches(".0").rsplit_once('.')?;
    let known = matches!(matrix, "to_q" | "to_k" | "to_v" | "to_out");
    known.then(|| format!("{attention}.processor.{matrix}"))
}

/// The spellings of a text encoder's layer. `flat` are kohya's prefixes, `folder` is the encoder's name in a diffusers
/// folder, `comfy` is ComfyUI's name. `bare` says whether names without any prefix belong to this encoder.
fn text(layer: &str, flat: &[&str], folder: &[&str], comfy: &str, bare: bool) -> Vec<String> {
    let core = layer.strip_prefix("text_model.").unwrap_or(layer);
    let mut cores = vec![core.to_owned()];
    // `self_attn.q_proj` was `self_attn.to_q` and `self_attn.out_proj` was `self_attn.to_out`.
    if let Some((attention, matrix)) = core.rsplit_once('.')
        && let Some(which) = matrix.strip_suffix("_proj").filter(|_| attention.ends_with("self_attn"))
    {
        cores.push(format!("{attention}.to_{which}"));
    }
    let mut all = Vec::new();
    for core in cores {
        for path in [format!("text_model.{core}"), core] {
            for folder in folder {
                all.push(format!("{folder}.{path}"));
                all.push(format!("base_model.model.{folder}.{path}"));
            }
            let underscores = path.replace('.', "_");
            all.extend(flat.iter().map(|prefix| format!("{prefix}{underscores}")));
            all.push(format!("text_encoders.{comfy}.transformer.{path}"));
            if bare {
                all.push(format!("base_model.model.{path}"));
                all.push(path);
            }
        }
    }
    all
}
