use burn::tensor::Tensor;

/// `x · sigmoid(x)`, any shape. Differentiable.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    fast!(silu(&x));
    silu_composed(x)
}

/// [`silu`]'s default body, burn's own: the reference that every faster body is tested against.
pub fn silu_composed<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    burn::tensor::activation::silu(x)
}
