//! Memory and operations of a network, computed from its shapes alone. The parameters need not be initialised.

use burn::module::Module;
use burn::nn::Linear;
use burn::nn::conv::Conv2d;

/// The cost of a part of a network for one sample. A part is a residual block with the attention after it, or a layer
/// between such blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Number of values that a forward pass keeps for the backward pass, including the part's output. This is the count
    /// for the kernels of flex; other backends may keep more.
    pub kept: usize,
    /// Number of values of the output. Of a block that the backward pass recomputes, only the output is kept.
    pub output: usize,
    /// Number of parameters.
    pub parameters: usize,
    /// Number of operations of the matrix products of a forward pass. A multiplication and an addition count as two.
    pub operations: f64,
}

impl Cost {
    pub(crate) fn of<M: Module>(part: &M, kept: usize, output: usize, operations: f64) -> Self {
        Self { kept, output, parameters: dmd_weights::count(part), operations }
    }
}

/// The costs of a network's parts, in the order of a forward pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Costs {
    /// The parts up to and including the middle block. A critic needs only these parts of a fake score.
    pub down: Vec<Cost>,
    /// The parts after the middle block.
    pub up: Vec<Cost>,
}

impl Costs {
    /// The costs of all parts.
    pub fn all(&self) -> impl Iterator<Item = &Cost> {
        self.down.iter().chain(&self.up)
    }
}

/// Input and output channels of a convolution.
pub(crate) fn channels(layer: &Conv2d) -> [usize; 2] {
    let shape = layer.weight.lazy_shape();
    [shape[1], shape[0]]
}

/// Number of operations of a convolution whose output has `positions` positions.
pub(crate) fn convolution(layer: &Conv2d, positions: usize) -> f64 {
    2.0 * product(&layer.weight.lazy_shape()) * positions as f64
}

/// Number of operations of a linear layer on `rows` rows.
pub(crate) fn linear(layer: &Linear, rows: usize) -> f64 {
    2.0 * product(&layer.weight.lazy_shape()) * rows as f64
}

/// Number of operations of both products of attention.
pub(crate) fn attention(queries: usize, keys: usize, channels: usize) -> f64 {
    4.0 * product(&[queries, keys, channels])
}

fn product(sizes: &[usize]) -> f64 {
    sizes.iter().map(|size| *size as f64).product()
}
