use dmd_weights::KeyMap;

/// transformers' `CLIPTextModel` keeps everything under `text_model.`.
pub const CLIP_KEYS: KeyMap = KeyMap { prefix: "text_model.", renames: &[], aliases: &[] };
