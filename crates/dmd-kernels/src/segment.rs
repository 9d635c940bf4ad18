//! Segments of a network whose activations are computed again in the backward pass: of a segment, only its inputs are kept.

#[cfg(any(feature = "flex", feature = "ndarray", feature = "wgpu", feature = "cuda"))]
mod step;

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};

/// What a segment computes of its module and inputs.
pub type Body<M, const N: usize> = Arc<dyn Fn(&M, [Tensor<4>; N]) -> Tensor<4> + Send + Sync>;

/// `body(module, inputs)`, without keeping what it computes on the way: the backward pass computes it again (Chen et al.
/// 2016). The gradients are the same bit by bit, for one more forward pass. Tensors that `body` captures are constants.
///
/// On the devices of [`recomputes`], for one to three inputs. Where neither an input nor a parameter is tracked, and with
/// burn's own checkpointing of element-wise operations, the body is computed as it stands.
pub fn recomputed<M: Module + 'static, const N: usize>(
    module: &M,
    inputs: [Tensor<4>; N],
    body: Body<M, N>,
) -> Tensor<4> {
    #[cfg(any(feature = "flex", feature = "ndarray", feature = "wgpu", feature = "cuda"))]
    if let Some(y) = step::recomputed(module, &inputs, &body) {
        return y;
    }
    body(module, inputs)
}

/// Whether [`recomputed`] computes segments again on this device: on every device of a backend that this build contains.
pub fn recomputes(device: &Device) -> bool {
    #[cfg(any(feature = "flex", feature = "ndarray", feature = "wgpu", feature = "cuda"))]
    return step::serves(device);
    #[cfg(not(any(feature = "flex", feature = "ndarray", feature = "wgpu", feature = "cuda")))]
    {
        let _ = device;
        false
    }
}

/// The same tensor. Gradients that reach it by several ways are added up here before they go on: with this at a segment's
/// inputs, sums have the same order whether the segment is [`recomputed`] or not, and so the same bits.
pub fn gathered<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(any(feature = "flex", feature = "ndarray", feature = "wgpu", feature = "cuda"))]
    if let Some(through) = x.is_autodiff().then(|| step::gathered(&x)).flatten() {
        return through;
    }
    x
}
