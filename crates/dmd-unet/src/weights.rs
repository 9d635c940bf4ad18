use dmd_weights::KeyMap;

/// Where the UNets' parameter paths differ from diffusers' keys: the kind of a layer is not part of a key.
pub const UNET_KEYS: KeyMap = KeyMap {
    prefix: "",
    renames: &[
        ("ff.proj", "ff.net.0.proj"),
        ("ff.out", "ff.net.2"),
        ("Convolution", ""),
        ("Linear", ""),
        ("Residual", ""),
        // SDXL's network around that of Stable Diffusion.
        ("body", ""),
    ],
    aliases: &[],
};

/// The autoencoder's paths are diffusers' keys; Stable Diffusion 1.5's own file still has the older
/// names of the attention's projections.
pub const AUTOENCODER_KEYS: KeyMap = KeyMap {
    prefix: "",
    renames: &[],
    aliases: &[("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")],
};

/// The tiny autoencoder's sequences: activations between the convolutions count as places.
pub const TINY_AUTOENCODER_KEYS: KeyMap = KeyMap {
    prefix: "",
    renames: &[
        ("plain", ""),
        ("block.first", "conv.0"),
        ("block.second", "conv.2"),
        ("block.third", "conv.4"),
    ],
    aliases: &[],
};
