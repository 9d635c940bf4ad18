//! What a network costs, by its shapes alone: its parameters may have no values yet.

use burn::module::Module;
use burn::nn::Linear;
use burn::nn::conv::Conv2d;

/// What a part of a network costs for one sample: a residual block with the attention after it, or what lies between two.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Values that a forward pass keeps for the backward pass, its output among them. Counted for the kernels of flex;
    /// other backends may keep more.
    pub kept: usize,
    /// Values of the output, which is all that is kept of a block that is computed again.
    pub output: usize,
    /// Parameters.
    pub parameters: usize,
    /// Operations of the matrix products of a forward pass; a multiplication and an addition are two.
    pub operations: f64,
}

impl Cost {
    pub(crate) fn of<M: Module>(part: &M, kept: usize, output: usize, operations: f64) -> Self {
        Self { kept, output, parameters: dmd_weights::count(part), operations }
    }
}

/// What the parts of a network cost, in the order of a forward pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Costs {
    /// Down to and including the middle block: what a critic needs of a fake score.
    pub down: Vec<Cost>,
    /// From there to the output.
    pub up: Vec<Cost>,
}

impl Costs {
    /// All parts.
    pub fn all(&self) -> impl Iterator<Item = &Cost> {
        self.down.iter().chain(&self.up)
    }
}

/// Channels of a convolution, in and out.
pub(crate) fn channels(layer: &Conv2d) -> [usize; 2] {
    let shape = layer.weight.lazy_shape();
    [shape[1], shape[0]]
}

/// Operations of a convolution whose output has so many positions.
pub(crate) fn convolution(layer: &Conv2d, positions: usize) -> f64 {
    2.0 * product(&layer.weight.lazy_shape()) * positions as f64
}

/// Operations of a linear layer on so many rows.
pub(crate) fn linear(layer: &Linear, rows: usize) -> f64 {
    2.0 * product(&layer.weight.lazy_shape()) * rows as f64
}

/// Operations of attention, both products.
pub(crate) fn attention(queries: usize, keys: usize, channels: usize) -> f64 {
    4.0 * product(&[queries, keys, channels])
}

fn product(sizes: &[usize]) -> f64 {
    sizes.iter().map(|size| *size as f64).product()
}
