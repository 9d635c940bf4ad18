//! The keys of LoRA files: which layer and which matrix a key names, and which keys show that a file is of another
//! kind.

/// The role of a tensor of a LoRA file in the update of its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Down,
    Up,
    Alpha,
    Scale,
}

/// Endings of keys. The text before the ending names the layer.
const ENDINGS: [(&str, Role); 14] = [
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    (".alpha", Role::Alpha),
    (".scale", Role::Scale),
];

/// Splits a key into the layer's name and the tensor's role.
pub(super) fn split(key: &str) -> Option<(&str, Role)> {
    ENDINGS.iter().find_map(|(ending, role)| Some((key.strip_suffix(ending)?, *role)))
}

/// Whether a key has PEFT's spelling, for which the scale is in a configuration.
pub(super) fn is_peft(key: &str) -> bool {
    key.contains(".lora_A.") || key.contains(".lora_B.")
}

/// Marks in keys of files that are no plain LoRA, each with the message about it, in the order in which they are
/// searched.
const FOREIGN: [(&[&str], &str); 14] = [
    (
        &["string_to_param", "emb_params"],
        "it is a textual inversion, an embedding for a prompt's word, and no LoRA",
    ),
    (&["lllite_unet"], "it is a ControlNet-LLLite, which steers a model with a picture, and no LoRA"),
    (
        &["control_model", "controlnet_cond_embedding", "controlnet_down_blocks", "input_hint_block"],
        "it is a ControlNet, which steers a model with a picture, and no LoRA",
    ),
    (
        &["dora_scale", "lora_magnitude_vector"],
        "it is a DoRA, which also changes the length of every row; only plain LoRA is merged",
    ),
    (
        &["hada_w1", "hada_w2", "hada_t1", "hada_t2"],
        "it is a LoHa (LyCORIS, Hadamard products); only plain LoRA is merged",
    ),
    (
        &["lokr_w1", "lokr_w2", "lokr_t2"],
        "it is a LoKr (LyCORIS, Kronecker products); only plain LoRA is merged",
    ),
    (
        &["oft_blocks", "oft_diag", "oft_R", "boft_R"],
        "it is an OFT or BOFT (orthogonal finetuning); only plain LoRA is merged",
    ),
    (&["on_input", "ia3_l"], "it is an IA³, which scales activations; only plain LoRA is merged"),
    (&["a1", "a2", "b1", "b2"], "it is a GLoRA (LyCORIS); only plain LoRA is merged"),
    (&["lora_mid"], "it has Tucker-decomposed convolutions (lora_mid); only plain LoRA is merged"),
    (
        &["diff", "diff_b", "w_norm", "b_norm"],
        "it holds full differences of weights (diff); only plain LoRA is merged",
    ),
    (
        &["double_blocks", "single_blocks", "single_transformer_blocks"],
        "it is made for Flux, which is another architecture",
    ),
    (
        &["joint_blocks", "joint_transformer_blocks"],
        "it is made for Stable Diffusion 3, which is another architecture",
    ),
    (
        &["transformer", "lora_transformer"],
        "it is made for a diffusion transformer such as Flux or Stable Diffusion 3, which is another architecture",
    ),
];

/// The reason why a file with these keys cannot be merged as a LoRA, or `None` if no key shows such a reason.
pub(super) fn foreign<'a>(keys: impl Iterator<Item = &'a str> + Clone) -> Option<&'static str> {
    let said = |marks: &[&str], key: &str| marks.iter().any(|mark| has(key, mark));
    if keys.clone().count() <= 2 && keys.clone().all(|key| matches!(key, "clip_l" | "clip_g")) {
        return keys.clone().next().map(|_| FOREIGN[0].1);
    }
    FOREIGN.iter().find(|(marks, _)| keys.clone().any(|key| said(marks, key))).map(|(_, reason)| *reason)
}

/// Whether a key belongs to the weights of a whole model. This is asked for a file without updates.
pub(super) fn of_model(key: &str) -> bool {
    let networks =
        ["input_blocks.", "down_blocks.", "first_stage_model.", "resblocks.", "encoder.layers.", "decoder."];
    networks.iter().any(|inside| key.contains(inside))
}

/// Whether a key has a mark of [`FOREIGN`]. Most marks must be a whole part of the key between dots; the others have
/// rules of their own.
fn has(key: &str, mark: &str) -> bool {
    match mark {
        "transformer" => {
            // The keys of open_clip's text encoder begin with `transformer.` too.
            ["transformer.", "base_model.model.transformer."].iter().any(|start| key.starts_with(start))
                && !key.starts_with("transformer.resblocks.")
        }
        "lora_transformer" => key.starts_with("lora_transformer_"),
        "lllite_unet" | "control_model" => key.starts_with(mark),
        "hada_w1" | "hada_w2" | "lokr_w1" | "lokr_w2" => key.contains(&format!(".{mark}")),
        "a1" | "a2" | "b1" | "b2" => key.ends_with(&format!(".{mark}.weight")),
        _ if mark.ends_with("_blocks") => key.contains(mark),
        _ => key.split('.').any(|part| part == mark),
    }
}

/// Whether a layer takes the text features, whose width shows which model the LoRA was made for.
pub(super) fn takes_text(stem: &str) -> bool {
    ["attn2_to_k", "attn2.to_k", "attn2.processor.to_k"].iter().any(|end| stem.ends_with(end))
}

/// Names the model whose UNet takes text features of this width.
pub(super) fn made_for(width: usize) -> String {
    match width {
        768 => "Stable Diffusion 1.x (text of width 768)".to_owned(),
        1024 => "Stable Diffusion 2.x (text of width 1024)".to_owned(),
        2048 => "Stable Diffusion XL (text of width 2048)".to_owned(),
        1280 => "the Stable Diffusion XL refiner (text of width 1280)".to_owned(),
        other => format!("a model with text of width {other}"),
    }
}
