//! The hot operations of diffusion networks, as an extension of burn's `Backend` trait.
//!
//! Each operation has a default body in plain tensor operations, correct on every backend, and a
//! faster body where one was written and proven equal to the default:
//!
//! | operation | default | flex |
//! | --- | --- | --- |
//! | [`group_norm`] (with optional SiLU) | composed | two passes, hand-written gradient |
//! | [`linear`] | one product of matrices | the same; a transposed weight is not copied |
//!
//! Everything else that a layer needs comes from burn itself.

mod group_norm;
#[cfg(feature = "flex")]
mod group_norm_flex;
#[cfg(feature = "flex")]
mod group_norm_loops;
mod linear;

pub use group_norm::{Activation, group_norm, group_norm_composed};
pub use linear::linear;
