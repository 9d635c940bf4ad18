use burn::tensor::Tensor;
use burn::tensor::activation::gelu;

/// The gate of a transformer's feed-forward: `h · gelu(g)` with `h` and `g` the two halves of the last axis, GELU
/// the exact, erf-based one (Shazeer 2020). Differentiable.
///
/// # Shapes
///
/// `both`: `[batch, rows, 2 · width]`; the result is `[batch, rows, width]`.
///
/// # Panics
///
/// If the last axis is odd.
pub fn geglu(both: Tensor<3>) -> Tensor<3> {
    let [_, _, width] = both.dims();
    assert!(width.is_multiple_of(2), "{width} columns have no two halves");
    #[cfg(feature = "flex")]
    if crate::geglu_flex::supports(&both) {
        return crate::geglu_flex::geglu(both);
    }
    geglu_composed(both)
}

/// [`geglu`]'s default body, in plain tensor operations: the reference that every faster body is tested against.
pub fn geglu_composed(both: Tensor<3>) -> Tensor<3> {
    let [_, _, width] = both.dims();
    let hidden = both.clone().narrow(2, 0, width / 2);
    let gate = both.narrow(2, width / 2, width / 2);
    hidden * gelu(gate)
}
