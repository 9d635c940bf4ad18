use dmd_weights::KeyMap;

/// Differences between the UNets' parameter paths and diffusers' keys. The variant of an enum is part of a path but not
/// of a key.
pub const UNET_KEYS: KeyMap = KeyMap {
    prefix: "",
    renames: &[
        ("ff.proj", "ff.net.0.proj"),
        ("ff.out", "ff.net.2"),
        ("Convolution", ""),
        ("Linear", ""),
        ("Residual", ""),
        // The field of SDXL's network that holds the network of Stable Diffusion.
        ("body", ""),
    ],
    aliases: &[],
};

/// The autoencoder's paths are diffusers' keys. The file of Stable Diffusion 1.5 has older names for the attention's
/// projections.
pub const AUTOENCODER_KEYS: KeyMap = KeyMap {
    prefix: "",
    renames: &[],
    aliases: &[("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")],
};

/// Differences between the tiny autoencoder's paths and diffusers' keys. In a key, the index in a sequence also counts
/// the activations between the convolutions.
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
