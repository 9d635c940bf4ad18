use dmd_weights::KeyMap;

/// Where the UNet's parameter paths differ from diffusers' keys.
pub const UNET_KEYS: KeyMap = KeyMap {
    prefix: "",
    renames: &[
        ("ff.proj", "ff.net.0.proj"),
        ("ff.out", "ff.net.2"),
        ("proj_in.Convolution", "proj_in"),
        ("proj_in.Linear", "proj_in"),
        ("proj_out.Convolution", "proj_out"),
        ("proj_out.Linear", "proj_out"),
    ],
    aliases: &[],
};

/// The class-conditional UNet's: which kind of block changes the size is not part of a key.
pub const CLASS_UNET_KEYS: KeyMap =
    KeyMap { prefix: "", renames: &[("Convolution", ""), ("Residual", "")], aliases: &[] };

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
