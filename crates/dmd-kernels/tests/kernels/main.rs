//! The fast bodies are the default bodies, values and gradients.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attention;
mod convolution;
mod elementwise;
mod group_norm;
mod linear;
mod low_rank;

use burn::tensor::{Device, Tensor, TensorData};

/// Uniform numbers of variance 1 around 0.3, the same on every run: a linear congruential generator.
pub(crate) fn numbers<const D: usize>(seed: u64, shape: [usize; D]) -> Tensor<D> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            0.3 + 3.464 * ((state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5)
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// All other tests with fewer of the processor's instructions.
#[test]
fn every_instruction_set() {
    let this = std::env::current_exe().unwrap();
    for most in ["avx512", "avx2", "scalar"] {
        let mut run = std::process::Command::new(&this);
        run.args(["--skip", "every_instruction_set"]).env("DMD_MAX_CPU_ISA", most);
        let output = run.output().unwrap();
        assert!(output.status.success(), "{most}: {}", String::from_utf8_lossy(&output.stdout));
    }
}
