//! The hot operations of diffusion networks, as an extension of burn's `Backend` trait.
//!
//! Each operation has a default body in plain tensor operations, correct on every backend, and a
//! faster body where one was written and proven equal to the default:
//!
//! | operation | default | flex |
//! | --- | --- | --- |
//! | [`group_norm`] (with optional SiLU) | composed | two passes over memory, hand-written gradient |
//! | [`convolution`], 3×3 of stride 1 | burn's | Winograd's F(4×4, 3×3), or direct in registers, whichever is faster for a shape; gradients likewise |
//! | [`convolution()`], other kernels and strides | burn's | one product of matrices over columns (im2col), where nothing is tracked |
//! | [`normalised_convolution`] | [`group_norm`], then a convolution | in one, where nothing is tracked |
//! | [`doubled_convolution`] | [`doubled`], then a convolution | in one, where nothing is tracked |
//! | [`attention()`], [`attention_between`] | burn's | a tile of keys at a time, without the scores; gradient by computing them again |
//! | [`linear_geglu`] | [`linear()`], then [`geglu`] | in one, where nothing is tracked |
//! | [`geglu`] | composed | one pass, hand-written gradient; erf off by at most 1.5e-7 |
//! | [`silu`] | burn's | one pass, hand-written gradient |
//! | [`gelu`], exact gradient everywhere | composed of erf | burn's |
//! | [`adamw`], the optimiser's update | composed | one pass |
//! | [`linear()`] | one product of matrices | the bias in the product; few rows: row by row, nothing packed; large results: by the package gemm |
//!
//! A weight may have a [`LowRank`] update that is trained in its place: [`linear()`], [`linear_rows`] and
//! [`convolution()`] add what it gives to their result.
//!
//! [`recomputed`] runs a segment of a network whose activations a backward pass computes again.
//!
//! On flex, weights in half precision are converted where they are used, a few rows at a time. Where the processor multiplies bf16
//! ([`device::multiplies_bf16`]), linear layers, 1×1, strided and small 3×3 convolutions with weights in bf16 and the attention between
//! such layers are products in bf16, summed in single precision; large 3×3 convolutions stay in single precision, in which Winograd's
//! algorithm is faster still and exact. Activations in half precision are
//! widened by the operation that gets them; [`device::computes_in`] says in which type a network should keep them.
//!
//! Everything else that a layer needs comes from burn itself. [`Operation`] is one of a network's operations with its
//! shapes, as a value: what a device is checked on and what benchmarks time. [`recorded`] lists those that a call of a
//! network runs; to be in the list, an operation goes through a function of this crate ([`layer_norm`] and
//! [`linear_rows`] are burn's own bodies).

/// Returns the result of a fast body from the function that asks, where the backend has one that serves its tensors.
macro_rules! fast {
    ($body:ident $arguments:tt $($then:tt)*) => {
        #[cfg(feature = "flex")]
        if let Some(result) = crate::flex::$body $arguments $($then)* {
            return result;
        }
    };
}

mod adamw;
mod attention;
mod convolution;
pub mod device;
#[cfg(feature = "flex")]
mod flex;
mod geglu;
mod group_norm;
mod layer_norm;
mod linear;
mod low_rank;
pub mod memory;
mod operation;
mod recording;
mod segment;
mod silu;

pub use adamw::{AdamWStep, adamw, adamw_composed};
pub use attention::{attention, attention_between, attention_composed, attention_recomputed};
pub use convolution::{
    convolution, convolution3, convolution3_composed, doubled, doubled_convolution, normalised_convolution,
};
pub use geglu::{geglu, geglu_composed, gelu, linear_geglu};
pub use group_norm::{Activation, group_norm, group_norm_composed};
pub use layer_norm::layer_norm;
pub use linear::{linear, linear_composed, linear_rows};
pub use low_rank::LowRank;
pub use operation::{Input, Operation, Operations};
pub use recording::{Spent, flops, recorded, timed};
pub use segment::{Body, gathered, recomputed, recomputes};
pub use silu::{silu, silu_composed};

/// The example of the package's page is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
