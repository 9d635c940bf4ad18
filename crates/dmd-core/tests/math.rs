//! The closed forms, invariants and gradients of `dmd-core`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "math/gaussians.rs"]
mod gaussians;
#[path = "math/gradients.rs"]
mod gradients;
#[path = "math/objectives.rs"]
mod objectives;
#[path = "math/oracles.rs"]
mod oracles;
#[path = "math/properties.rs"]
mod properties;
#[path = "math/times.rs"]
mod times;

use burn::tensor::{Device, Tensor, TensorData};
use dmd_core::NoiseLevel;

/// A row of numbers as `[n]`.
fn row(values: &[f64]) -> Tensor<1> {
    let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), &Device::flex())
}

/// One number per sample as `[n, 1, 1, 1]`.
fn column(values: &[f64]) -> Tensor<4> {
    row(values).reshape([values.len(), 1, 1, 1])
}

fn level(alpha: &[f64], sigma: &[f64]) -> NoiseLevel {
    NoiseLevel { t: row(sigma), alpha: row(alpha), sigma: row(sigma) }
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

fn assert_near(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= tolerance * e.abs().max(1.0), "{f} against {e} (tolerance {tolerance})");
    }
}
