use std::sync::Arc;

use burn::nn::Linear;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, FloatDType, Tensor};

use crate::Operation;
use crate::recomputed;
use crate::recording::note;

/// `softmax(q kᵀ / √width) v` over several heads; a causal one sees earlier keys only. Differentiable.
///
/// # Shapes
///
/// `q`: `[batch, n, heads · width]`; `k`, `v`: `[batch, m, heads · width]`; the result is like `q`.
///
/// # Panics
///
/// If `heads` does not divide the columns, or `k` and `v` are not of one shape that fits `q`.
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize, causal: bool) -> Tensor<3> {
    noted(FloatDType::F32.into(), [q, k, v], heads, causal)
}

/// [`attention`] to all keys, between layers whose weights have the type `weights`: where that is bf16, flex multiplies in bf16 as it does
/// in those layers.
///
/// # Panics
///
/// As [`attention`].
pub fn attention_between(
    weights: DType,
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    heads: usize,
) -> Tensor<3> {
    noted(weights, [q, k, v], heads, false)
}

fn noted(weights: DType, [q, k, v]: [Tensor<3>; 3], heads: usize, causal: bool) -> Tensor<3> {
    let ([batch, queries, columns], [k_batch, keys, k_columns]) = (q.dims(), k.dims());
    assert!(heads > 0 && columns.is_multiple_of(heads), "{heads} heads do not divide {columns} columns");
    assert_eq!([batch, columns], [k_batch, k_columns], "queries and keys have one batch and one width");
    assert_eq!(k.dims(), v.dims(), "there is a value for each key");
    assert!(keys > 0, "there is a key to attend to");
    let width = columns / heads;
    let _span = note(|| Operation::Attention { batch, heads, queries, keys, width, causal });
    computed(weights, [q, k, v], heads, causal)
}

fn computed(weights: DType, [q, k, v]: [Tensor<3>; 3], heads: usize, causal: bool) -> Tensor<3> {
    fast!(attention([&q, &k, &v], heads, causal, weights == DType::BF16));
    fast!(widened(&q, || computed(weights, [&q, &k, &v].map(crate::flex::single), heads, causal)));
    #[cfg(not(feature = "flex"))]
    let _ = weights;
    if q.is_autodiff() || k.is_autodiff() || v.is_autodiff() {
        return attention_recomputed(q, k, v, heads, causal);
    }
    attention_composed(q, k, v, heads, causal)
}

/// [`attention_composed`], whose scores are not kept for the backward pass but computed again: for 4096 positions and 8
/// heads they are 0.5 GiB a sample in single precision.
pub fn attention_recomputed(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    heads: usize,
    causal: bool,
) -> Tensor<3> {
    // A module without parameters.
    let nothing: Vec<Linear> = Vec::new();
    let body = move |_: &Vec<Linear>, inputs: [Tensor<4>; 3]| {
        let [q, k, v] = inputs.map(|x| x.squeeze_dim::<3>(1));
        attention_composed(q, k, v, heads, causal).unsqueeze_dim(1)
    };
    recomputed(&nothing, [q, k, v].map(|x| x.unsqueeze_dim(1)), Arc::new(body)).squeeze_dim(1)
}

/// [`attention`]'s default body, burn's own attention: the reference that every faster body is tested against.
pub fn attention_composed(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize, causal: bool) -> Tensor<3> {
    let [batch, n, columns] = q.dims();
    let split = |x: Tensor<3>| {
        let [batch, length, columns] = x.dims();
        x.reshape([batch, length, heads, columns / heads]).swap_dims(1, 2)
    };
    let options = AttentionModuleOptions { is_causal: causal, ..Default::default() };
    let out = burn::tensor::module::attention(split(q), split(k), split(v), None, None, options);
    out.swap_dims(1, 2).reshape([batch, n, columns])
}
