//! [`attention`](crate::attention()) for the flex backend: forward without the scores, the gradient by computing them
//! again for some queries at a time.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::attention_loops::attend_in_pairs;
use super::attention_loops::{BLOCK, Head, Queries, Workspace, attend, softmax_gradient, softmax_rows};
use super::disjoint::Disjoint;
#[cfg(target_arch = "x86_64")]
use super::instructions::{Arithmetic, Pairs};
#[cfg(target_arch = "x86_64")]
use super::products::Together;
use super::recompute::{Recomputed, second_order, tracked};
#[cfg(target_arch = "x86_64")]
use super::scratch::Scratch;
#[cfg(target_arch = "x86_64")]
use super::stored::Stored;
use super::tensors::{dims, is_served, tensor, unwritten, values};

/// Attention as an operation of a backend. `causal` is 1 or 0, and so is `brain`: whether to multiply in bf16.
#[backend_extension(Flex, Autodiff)]
pub trait AttentionOps: Backend {
    /// `softmax(q kᵀ / √width) v` of `[batch, rows, heads · width]` each.
    fn heads_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
        causal: usize,
        brain: usize,
    ) -> FloatTensor<Self>;

    /// Gradients of `q`, `k` and `v`, given the output's.
    fn heads_attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        heads: usize,
        causal: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// [`crate::attention()`], where the tensors are on flex in a float type that is served.
pub(crate) fn attention(
    [q, k, v]: [&Tensor<3>; 3],
    heads: usize,
    causal: bool,
    brain: bool,
) -> Option<Tensor<3>> {
    is_served(q).then(|| {
        let tracked = [q, k, v].into_iter().any(Tensor::is_autodiff);
        let [causal, brain] = [causal, brain && !tracked].map(usize::from);
        let [q, k, v] = [q, k, v].map(|x| x.clone().into_dispatch());
        Tensor::from_dispatch(Dispatch::heads_attention(q, k, v, heads, causal, brain))
    })
}

/// Queries of a head that a thread takes at a time, and of a wide head.
const CHUNK: usize = 4 * BLOCK;
const WIDE_CHUNK: usize = 2 * BLOCK;
/// Queries whose scores the gradient holds at a time.
const ROWS: usize = 256;

/// Rows of each of `m` rows in pairs, the last with zeros where their number is odd.
#[cfg(target_arch = "x86_64")]
fn rows_in_pairs(by: Pairs, x: &[f32], columns: usize, m: usize) -> Scratch {
    let half = m.div_ceil(2);
    let mut room = Scratch::new(x.len() / (m * columns) * half * columns);
    let zeros = vec![0.0; columns];
    room.par_chunks_mut(columns).with_min_len(16).enumerate().for_each(|(i, out)| {
        let (sample, row) = (i / half, i % half * 2);
        let rows = &x[(sample * m + row) * columns..];
        let second = if row + 1 < m { &rows[columns..2 * columns] } else { &zeros };
        by.vectorize(by.simd(), Together { first: &rows[..columns], second, out });
    });
    room
}

fn scale(width: usize) -> f32 {
    1.0 / (width as f32).sqrt()
}

/// The rows of a head alone.
fn gathered(x: &[f32], columns: usize, at: std::ops::Range<usize>) -> Vec<f32> {
    x.chunks_exact(columns).flat_map(|x| &x[at.clone()]).copied().collect()
}

impl AttentionOps for Flex {
    fn heads_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        heads: usize,
        causal: usize,
        brain: usize,
    ) -> FlexTensor {
        let (q, k, v) = (q.to_contiguous(), k.to_contiguous(), v.to_contiguous());
        let ([batch, n, columns], [_, m, _]): ([usize; 3], [usize; 3]) = (dims(&q), dims(&k));
        let width = columns / heads;
        let mut out = unwritten(batch * n * columns);
        let shape = [batch, n, columns];
        if out.is_empty() {
            return tensor(out, shape);
        }
        #[cfg(target_arch = "x86_64")]
        let pairs = (brain == 1 && causal == 0 && width.is_multiple_of(2)).then(Pairs::try_new).flatten();
        #[cfg(target_arch = "x86_64")]
        let paired = pairs.map(|pairs| {
            let keys = Stored::Single(values(&k)).pairs(pairs, columns);
            (keys, rows_in_pairs(pairs, values(&v), columns, m))
        });
        #[cfg(not(target_arch = "x86_64"))]
        let _ = brain;
        let chunk = if width > 256 { WIDE_CHUNK } else { CHUNK };
        let chunks = n.div_ceil(chunk);
        let places = Disjoint::new(&mut out);
        (0..batch * chunks * heads).into_par_iter().for_each_init(Workspace::default, |workspace, job| {
            // Jobs of one head follow each other: its keys and values stay in the caches.
            let (head, part) = (job / chunks, job % chunks);
            let (sample, at, first) = (head / heads, head % heads * width, part * chunk);
            let start = (sample * n + first) * columns + at;
            let [keys, rows] = [&k, &v].map(|x| &values(x)[sample * m * columns..][at..m * columns]);
            #[cfg(target_arch = "x86_64")]
            let (pairs, [keys, rows]) = match &paired {
                Some((k, v)) => {
                    let (keys, rows) = (m * columns / 2, m.div_ceil(2) * columns);
                    let keys = &k[sample * keys..][at / 2..keys];
                    (pairs, [keys, &v[sample * rows..][at..rows]])
                }
                None => (None, [keys, rows]),
            };
            let queries = Queries {
                head: Head { keys, values: rows, stride: columns, count: m, width },
                queries: &values(&q)[start..],
                out: &places,
                start,
                count: chunk.min(n - first),
                scale: scale(width),
                visible: if causal == 1 { first + 1 } else { m },
                workspace,
            };
            #[cfg(target_arch = "x86_64")]
            if let Some(pairs) = pairs {
                return attend_in_pairs(queries, pairs);
            }
            attend(queries);
        });
        tensor(out, shape)
    }

    fn heads_attention_backward(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        grad: FlexTensor,
        heads: usize,
        causal: usize,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let (q, k, v) = (q.to_contiguous(), k.to_contiguous(), v.to_contiguous());
        let grad = grad.to_contiguous();
        let ([batch, n, columns], [_, m, _]): ([usize; 3], [usize; 3]) = (dims(&q), dims(&k));
        let width = columns / heads;
        let of_heads: Vec<[Vec<f32>; 3]> = (0..batch * heads)
            .into_par_iter()
            .map(|i| {
                let (sample, at) = (i / heads, i % heads * width);
                let head = |x: &FlexTensor, rows: usize| {
                    let x = &values(x)[sample * rows * columns..][..rows * columns];
                    gathered(x, columns, at..at + width)
                };
                let inputs = [head(&q, n), head(&k, m), head(&v, m), head(&grad, n)];
                head_gradients(inputs, [n, m, width], causal == 1)
            })
            .collect();
        let scattered = |which: usize, rows: usize| {
            let mut out = vec![0.0_f32; batch * rows * columns];
            let samples = out.par_chunks_mut((rows * columns).max(1)).enumerate();
            samples.for_each(|(sample, out)| {
                for (head, gradients) in of_heads[sample * heads..(sample + 1) * heads].iter().enumerate() {
                    let rows = gradients[which].chunks_exact(width);
                    for (row, out) in rows.zip(out.chunks_exact_mut(columns)) {
                        out[head * width..(head + 1) * width].copy_from_slice(row);
                    }
                }
            });
            tensor(out, [batch, rows, columns])
        };
        (scattered(0, n), scattered(1, m), scattered(2, m))
    }
}

/// The gradients of one head's queries, keys and values, `[rows, width]` each.
fn head_gradients([q, k, v, grad]: [Vec<f32>; 4], [n, m, width]: [usize; 3], causal: bool) -> [Vec<f32>; 3] {
    let product = Flex::float_matmul;
    let turned = Flex::float_transpose;
    let (k, v) = (tensor(k, [m, width]), tensor(v, [m, width]));
    let mut of_q = Vec::with_capacity(n * width);
    let mut of_k = tensor(vec![0.0; m * width], [m, width]);
    let mut of_v = of_k.clone();
    for (chunk, (q, grad)) in q.chunks(ROWS * width).zip(grad.chunks(ROWS * width)).enumerate() {
        let rows = q.len() / width;
        let (q, grad) = (tensor(q.to_vec(), [rows, width]), tensor(grad.to_vec(), [rows, width]));
        let mut weights = values(&product(q.clone(), turned(k.clone())).to_contiguous()).to_vec();
        let first = chunk * ROWS;
        softmax_rows(&mut weights, m, scale(width), |i| if causal { first + i + 1 } else { m });
        let mut scores = values(&product(grad.clone(), turned(v.clone())).to_contiguous()).to_vec();
        softmax_gradient(&weights, &mut scores, m, scale(width));
        let (weights, scores) = (tensor(weights, [rows, m]), tensor(scores, [rows, m]));
        of_v = Flex::float_add(of_v, product(turned(weights), grad));
        of_q.extend_from_slice(values(&product(scores.clone(), k.clone()).to_contiguous()));
        of_k = Flex::float_add(of_k, product(turned(scores), q));
    }
    let read = |tensor: FlexTensor| values(&tensor.to_contiguous()).to_vec();
    [of_q, read(of_k), read(of_v)]
}

#[derive(Debug, Clone)]
struct Attention {
    heads: usize,
    causal: usize,
}

impl<B: AttentionOps> Recomputed<B, 3> for Attention {
    fn forward(&self, [q, k, v]: [FloatTensor<B>; 3]) -> FloatTensor<B> {
        B::heads_attention(q, k, v, self.heads, self.causal, 0)
    }

    fn backward(
        &self,
        [q, k, v]: [FloatTensor<B>; 3],
        gradient: FloatTensor<B>,
        _: [bool; 3],
    ) -> [Option<FloatTensor<B>>; 3] {
        let (q, k, v) = B::heads_attention_backward(q, k, v, gradient, self.heads, self.causal);
        [q, k, v].map(Some)
    }
}

impl<B: AttentionOps, C: CheckpointStrategy> AttentionOps for Autodiff<B, C> {
    fn heads_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
        causal: usize,
        _: usize,
    ) -> FloatTensor<Self> {
        tracked::<B, C, _, 3>(Attention { heads, causal }, [q, k, v])
    }

    fn heads_attention_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: usize,
        _: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        second_order("attention")
    }
}
