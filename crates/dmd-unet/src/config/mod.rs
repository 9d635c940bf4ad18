//! `config.json` of the networks, in diffusers' layout. A configuration is read once: options with a meaning become
//! numbers and enums, every other key is kept as it is for writing back, and must be one that changes nothing.

mod autoencoder;
mod class;
mod options;
mod text;
mod tiny;
mod xl;

pub use autoencoder::{AutoencoderClass, AutoencoderConfig, DecoderBlock, EncoderBlock};
pub use class::{ClassDownBlock, ClassUNetClass, ClassUNetConfig, ClassUpBlock};
pub use options::PerLevel;
pub use text::{DownBlock, UNetClass, UNetConfig, UpBlock};
pub use tiny::{TinyAutoencoderClass, TinyAutoencoderConfig};
pub(crate) use xl::SIZES;
pub use xl::{AddedEmbedding, XlUNetConfig};

/// Stable Diffusion's number of latent channels, and diffusers' default for inputs and outputs.
fn four() -> usize {
    4
}

/// Channels of a colour picture.
fn three() -> usize {
    3
}

fn two() -> usize {
    2
}

fn one() -> usize {
    1
}

fn eight() -> usize {
    8
}

fn thirty_two() -> usize {
    32
}

fn norm_eps() -> f64 {
    1e-5
}
