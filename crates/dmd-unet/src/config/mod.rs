//! `config.json` of the networks, in diffusers' layout. Options that this implementation uses become numbers and enums.
//! Every other key is kept unchanged for writing the file again, and must have a value that does not change what the
//! network computes.

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

/// Number of latent channels of Stable Diffusion, and diffusers' default for inputs and outputs.
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
