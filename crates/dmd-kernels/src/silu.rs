use burn::tensor::Tensor;

/// `x · sigmoid(x)`, any shape. Differentiable.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if crate::silu_flex::supports(&x) {
        return crate::silu_flex::silu(x);
    }
    silu_composed(x)
}

/// [`silu`]'s default body, burn's own: the reference that every faster body is tested against.
pub fn silu_composed<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    burn::tensor::activation::silu(x)
}
