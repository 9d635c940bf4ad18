//! The lazy view: chosen, renamed and merged tensors, loaded by name, written as they come.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod headers;
mod renaming;
mod writing;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::Device;
use dmd_weights::{KeyMap, NamedTensor, Tensors};

#[derive(Module, Debug)]
pub(crate) struct Net {
    linear: Linear,
    layers: Vec<Conv2d>,
}

pub(crate) fn net() -> Net {
    let device = Device::flex();
    let conv = Conv2dConfig::new([3, 2], [3, 3]);
    Net { linear: LinearConfig::new(5, 4).init(&device), layers: vec![conv.init(&device)] }
}

pub(crate) const KEYS: KeyMap = KeyMap { prefix: "", renames: &[], aliases: &[] };

pub(crate) fn named(name: &str, shape: &[usize], values: impl Fn(usize) -> f32) -> NamedTensor {
    (name.to_owned(), shape.to_vec(), (0..shape.iter().product()).map(values).collect())
}

pub(crate) fn of(tensors: impl IntoIterator<Item = NamedTensor>) -> Tensors {
    Tensors::from_values("test", tensors).unwrap()
}
