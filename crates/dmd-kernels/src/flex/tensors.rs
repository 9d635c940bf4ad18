//! What the fast bodies ask of tensors, and how they read and make them.

use burn::backend::DispatchDevice;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, FloatDType, Tensor, TensorData};

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

/// Room for an operation's result, to be written whole: its values are what was in memory, and in builds with debug assertions NaN, so
/// that tests find a value that nobody wrote. Clearing it would cost a large result another pass over memory.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[expect(unsafe_code, reason = "the length of a vector whose elements the compiler has to take for written")]
pub(super) fn unwritten(len: usize) -> Vec<f32> {
    let mut room: Vec<f32> = Vec::with_capacity(len);
    // SAFETY: any bits are a float. The compiler has to assume that the assembly, which gets the address and may write memory, wrote
    // all elements; the capacity is at least `len`.
    unsafe {
        std::arch::asm!("/* {0} */", in(reg) room.as_mut_ptr(), options(nostack, preserves_flags));
        room.set_len(len);
    }
    if cfg!(debug_assertions) {
        room.fill(f32::NAN);
    }
    room
}

/// Room for an operation's result, to be written whole.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn unwritten(len: usize) -> Vec<f32> {
    vec![0.0; len]
}

/// A tensor of these values.
pub(super) fn tensor(values: Vec<f32>, shape: impl Into<Vec<usize>>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}
