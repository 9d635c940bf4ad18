//! What the fast bodies ask of tensors, and how they read and make them.

use std::mem::MaybeUninit;

use burn::backend::DispatchDevice;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use rayon::prelude::*;

use crate::device::plain;

/// Whether the device is flex, with autodiff or without.
pub(super) fn on_flex(device: &DispatchDevice) -> bool {
    matches!(plain(device), DispatchDevice::Flex(_))
}

/// Whether a tensor is in single precision on flex: what the fast bodies compute in.
pub(super) fn is_single<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && on_flex(x.device().as_dispatch())
}

/// Whether a differentiable fast body serves a tensor on flex: in single precision, and in half on the training side, where
/// [`tracked`](super::recompute::tracked) widens what it computes with.
pub(super) fn is_served<const D: usize>(x: &Tensor<D>) -> bool {
    let half = matches!(x.dtype(), DType::F16 | DType::BF16) && x.is_autodiff();
    is_single(x) || half && on_flex(x.device().as_dispatch())
}

/// Half precision on a processor that computes in single: where `x` is a half-precision tensor on flex without
/// autodiff, the result of `body`, which widens its own inputs, rounded to the type of `x`.
///
/// One layer is widened at a time, weights included: the model stays half as large, and no full copy is made.
pub(crate) fn widened<const D: usize, const E: usize>(
    x: &Tensor<D>,
    body: impl FnOnce() -> Tensor<E>,
) -> Option<Tensor<E>> {
    let dtype = match x.dtype() {
        DType::F16 => FloatDType::F16,
        DType::BF16 => FloatDType::BF16,
        _ => return None,
    };
    (!x.is_autodiff() && on_flex(x.device().as_dispatch())).then(|| body().cast(dtype))
}

/// The tensor in single precision.
pub(crate) fn single<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    x.clone().cast(FloatDType::F32)
}

/// The elements of a contiguous f32 tensor.
pub(super) fn values(tensor: &FlexTensor) -> &[f32] {
    let start = tensor.layout().start_offset();
    let len = tensor.layout().num_elements();
    &tensor.storage::<f32>()[start..start + len]
}

/// The sizes of a tensor of this rank.
pub(super) fn dims<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    let dims = tensor.layout().shape();
    std::array::from_fn(|axis| dims.as_slice()[axis])
}

/// Values that one thread clears at a time, 256 KiB.
const CLEARED: usize = 1 << 16;

/// Room for an operation's result, zeros. All threads clear a large one: memory that an allocator hands out again is not zero, and one
/// thread would take as long for it as all of them for a part of the operation.
#[expect(unsafe_code, reason = "the length of a vector whose elements are all written")]
pub(super) fn zeros(len: usize) -> Vec<f32> {
    if len < 8 * CLEARED {
        return vec![0.0; len];
    }
    let mut zeros = Vec::with_capacity(len);
    let room = zeros.spare_capacity_mut()[..len].par_chunks_mut(CLEARED);
    room.for_each(|room| room.fill(MaybeUninit::new(0.0)));
    // SAFETY: the capacity is at least `len`, and the first `len` elements were just written.
    unsafe { zeros.set_len(len) };
    zeros
}

/// A tensor of these values.
pub(super) fn tensor(values: Vec<f32>, shape: impl Into<Vec<usize>>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}
