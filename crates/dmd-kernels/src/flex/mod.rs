//! The fast bodies for the flex backend, burn's pure Rust CPU backend. Each function returns nothing where its fast body
//! does not serve the given tensors; the caller then uses the default body.
//!
//! A product and a sum are fused only where the processor has an instruction for it (`mul_add_e_f32s`). WebAssembly has none, and
//! computing the fused value without one takes fifteen times as long.

mod adamw;
mod attention;
mod attention_loops;
mod columns;
mod convolution;
mod direct_loops;
mod disjoint;
mod geglu;
mod group_norm;
mod group_norm_loops;
mod instructions;
mod linear;
mod mathematics;
mod normalised;
mod peak;
mod product_loops;
mod products;
mod recompute;
mod scratch;
mod silu;
mod stored;
mod tensors;
mod transposed;
mod weight_gradient;
mod winograd;
mod winograd_loops;
mod winograd_places;
mod winograd_products;
mod winograd_transforms;

pub(crate) use adamw::adamw;
pub(crate) use attention::attention;
pub(crate) use columns::convolution_by_columns;
pub(crate) use convolution::{convolution3, doubled_convolution3};
pub(crate) use geglu::{gated, geglu, gelu};
pub(crate) use group_norm::group_norm;
pub(crate) use instructions::{limit, multiplies_bf16};
pub(crate) use linear::linear;
pub(crate) use normalised::{Normalisation, normalised_convolution3, normalises};
pub(crate) use peak::processor_peak;
pub(crate) use silu::silu;
pub(crate) use tensors::{single, widened};
