//! Attention over positions and over text.

use burn::tensor::{DType, Tensor, Tolerance};
use dmd_kernels::{attention, attention_between, attention_composed, attention_recomputed};
use proptest::prelude::*;

use crate::numbers;

type Attention = fn(Tensor<3>, Tensor<3>, Tensor<3>, usize, bool) -> Tensor<3>;

/// Output and the three gradients of a weighted sum of it.
fn attend(
    op: Attention,
    [batch, n, m]: [usize; 3],
    heads: usize,
    width: usize,
    causal: bool,
) -> [Vec<f32>; 4] {
    let tracked = |seed, rows| numbers(seed, [batch, rows, heads * width]).autodiff().require_grad();
    let (q, k, v) = (tracked(1, n), tracked(2, m), tracked(3, m));
    let out = op(q.clone(), k.clone(), v.clone(), heads, causal);
    let by = numbers(4, [batch, n, heads * width]).autodiff();
    let grads = (out.clone() * by).sum().backward();
    let read = |t: Tensor<3>| t.into_data().try_to_vec::<f32>().unwrap();
    let of = |t: &Tensor<3>| read(t.grad(&grads).unwrap());
    [read(out.without_autodiff()), of(&q), of(&k), of(&v)]
}

fn check_attention(shape: [usize; 3], heads: usize, width: usize, causal: bool) {
    let (fast, slow) = (
        attend(attention, shape, heads, width, causal),
        attend(attention_composed, shape, heads, width, causal),
    );
    for (part, (fast, slow)) in fast.iter().zip(&slow).enumerate() {
        assert_eq!(fast.len(), slow.len());
        // Weights good to a few 1e-7 each, sums of up to a thousand of them, against the largest value.
        let scale = slow.iter().fold(1.0_f32, |m, v| m.max(v.abs()));
        for (i, (f, s)) in fast.iter().zip(slow).enumerate() {
            let what = ["output", "gradient of q", "of k", "of v"][part];
            assert!(
                (f - s).abs() <= 2e-5 * scale,
                "{shape:?}, {heads} heads of {width}, causal {causal}: {what} {i}: {f} against {s}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn attention_equals_burns(
        batch in 1usize..3, n in 1usize..70, m in 1usize..140, heads in 1usize..4, width in 1usize..50,
    ) {
        check_attention([batch, n, m], heads, width, false);
    }
}

/// Scores that are computed again give the same bits as scores that are kept.
#[test]
fn attention_computed_again() {
    for (shape, heads, causal) in [([2, 5, 7], 2, false), ([1, 33, 33], 3, true)] {
        let [kept, again] =
            [attention_composed, attention_recomputed].map(|op| attend(op, shape, heads, 8, causal));
        assert!(kept == again, "{shape:?}");
    }
}

/// More keys than a tile, more queries than the gradient takes at a time, Stable Diffusion's widths, and text's causal one.
#[test]
fn attention_of_real_shapes() {
    check_attention([1, 300, 300], 2, 40, false);
    check_attention([1, 64, 1030], 1, 80, false);
    check_attention([2, 77, 77], 2, 64, true);
    check_attention([1, 300, 300], 1, 8, true);
    check_attention([1, 20, 77], 2, 160, false);
    check_attention([1, 40, 64], 1, 512, false);
    // Wide heads, whose tiles are smaller: several tiles, several chunks of queries.
    check_attention([1, 100, 300], 1, 512, false);
    check_attention([1, 300, 300], 1, 264, true);
}

/// Scores far beyond what the exponential of single precision holds.
#[test]
fn attention_of_extreme_scores() {
    let (q, k, v) =
        (numbers(1, [1, 9, 16]) * 60.0, numbers(2, [1, 300, 16]) * 60.0, numbers(3, [1, 300, 16]));
    let run = |op: Attention| op(q.clone(), k.clone(), v.clone(), 2, false).into_data();
    // A score of some 10 000 is good to 1e-3, and so is a weight that is not 0 or 1.
    run(attention).assert_approx_eq::<f32>(&run(attention_composed), Tolerance::absolute(1e-2));
}

/// Between layers in bf16 the error is that of operands rounded to it; an odd number of keys has half a pair.
#[test]
fn attention_between_layers_in_bf16() {
    for (n, m, heads, width) in [(70, 77, 2, 40), (130, 300, 3, 6), (5, 1, 1, 8), (64, 121, 1, 300)] {
        let [q, k, v] = [(1, n), (2, m), (3, m)].map(|(seed, rows)| numbers(seed, [2, rows, heads * width]));
        let exact = attention_composed(q.clone(), k.clone(), v.clone(), heads, false);
        let same = attention_between(DType::F32, q.clone(), k.clone(), v.clone(), heads);
        assert_eq!(same.into_data(), attention(q.clone(), k.clone(), v.clone(), heads, false).into_data());
        let found = attention_between(DType::BF16, q, k, v, heads);
        let rms = |x: Tensor<3>| x.square().mean().into_scalar::<f32>().sqrt();
        let relative = rms(found - exact.clone()) / rms(exact);
        // A rounding to bf16 is off by 2⁻⁹ at most. It happens to q, k, the weights and v.
        assert!(relative < 4.0 / 512.0, "{n} to {m}, {heads} heads of {width}: {relative}");
    }
}
