//! Stable Diffusion's convolutional networks in diffusers' layout: the UNet that predicts noise ([`UNet2d`]), and the
//! autoencoder that converts pictures to latents and back ([`Autoencoder`], or the small [`TinyAutoencoder`]).
//!
//! ```text
//! x_t [b, 4, h, w] ── conv_in ─ down_blocks ─ mid_block ─ up_blocks ─ conv_out ── output
//!                                  │  ▲ text [b, 77, width]     ▲
//!                                  └──┴──────── skips ──────────┘
//! ```
//!
//! Fields have the names of the checkpoint's keys, so that the path of a parameter in the module is its key in the
//! file. A table in `weights.rs` lists the few exceptions. Configurations are the same `config.json` that diffusers
//! reads and writes.

mod attention;
mod autoencoder;
mod block;
mod class_unet;
mod config;
mod cost;
mod critic;
mod embedding;
mod error;
mod network;
mod preconditioned;
mod resample;
mod resnet;
mod text_unet;
mod tiling;
mod tiny;
mod unet;
mod weights;
mod xl_unet;

pub use autoencoder::{Autoencoder, Decoder, Encoder, Posterior};
pub use block::Resampling;
pub use class_unet::ClassUNet2d;
pub use config::{
    AddedEmbedding, AutoencoderClass, AutoencoderConfig, ClassDownBlock, ClassUNetClass, ClassUNetConfig,
    ClassUpBlock, DecoderBlock, DownBlock, EncoderBlock, PerLevel, TinyAutoencoderClass,
    TinyAutoencoderConfig, UNetClass, UNetConfig, UpBlock, XlUNetConfig,
};
pub use cost::{Cost, Costs};
pub use critic::Discriminator;
pub use embedding::TOLD_GUIDANCE;
pub use error::Error;
pub use network::{Network, Sizes};
pub use preconditioned::{ClassDenoiser, Preconditioned, UNetDenoiser};
pub use resnet::TimeScaleShift;
pub use text_unet::UNet2d;
pub use tiny::TinyAutoencoder;
pub use unet::UNet;
pub use weights::{AUTOENCODER_KEYS, TINY_AUTOENCODER_KEYS, UNET_KEYS};
pub use xl_unet::{XlCondition, XlUNet2d};

/// Compiles and runs the README's example as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
