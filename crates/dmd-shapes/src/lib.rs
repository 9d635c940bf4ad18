//! The model of coloured shapes as a part of a program: its generator of one step, text encoder, tokenizer and autoencoder,
//! 9 MB. The same files are `models/shapes` in the repository, with their teacher and a card.
//!
//! ```
//! let folder = dmd_shapes::MODEL.path();
//! let config: dmd_weights::ModelIndex = dmd_weights::read_json(&folder.join("model_index.json"))?;
//! assert_eq!(config.class_name, "StableDiffusionPipeline");
//! # Ok::<(), dmd_weights::Error>(())
//! ```

use dmd_weights::EmbeddedFolder;

/// Bytes at an address that suits every type of value, as the start of a mapped file does.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

/// The files by their names in the model's folder.
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, {
            static BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("DMD_SHAPES"), "/", $name)));
            &BYTES.0
        })),*]
    };
}

/// The model's folder.
pub static MODEL: EmbeddedFolder = EmbeddedFolder {
    name: "dmd-shapes",
    files: files![
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet_one_step/config.json",
        "unet_one_step/diffusion_pytorch_model.safetensors",
        "unet_one_step/one_step.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ],
};

/// The example of the package's page is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
