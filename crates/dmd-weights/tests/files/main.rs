//! Model files: what is written is read back, and what is wrong is said.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod damaged;
mod names;
mod values;

use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig};
use burn::tensor::Device;
use dmd_weights::{Dtype, KeyMap};

#[derive(Module, Debug)]
pub(crate) struct Net {
    first: Linear,
    norm: GroupNorm,
    layers: Vec<Linear>,
}

pub(crate) fn net(width: usize) -> Net {
    let device = Device::flex();
    Net {
        first: LinearConfig::new(3, width).init(&device),
        norm: GroupNormConfig::new(2, width).init(&device),
        layers: vec![LinearConfig::new(width, 2).with_bias(false).init(&device)],
    }
}

pub(crate) const KEYS: KeyMap =
    KeyMap { prefix: "net.", renames: &[("first", "outer.0")], aliases: &[("old_norm", "norm")] };

pub(crate) fn write_tensors(path: &Path, tensors: &[(&str, Vec<usize>, Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|t| t.2.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        let view = safetensors::tensor::TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (*name, view)
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}
