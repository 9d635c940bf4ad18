//! Attention of some blocks of queries to all keys, a tile of keys at a time, with a running maximum and sum: the scores of
//! a block and a tile stay in a core's first cache, a tile's keys and values in its second, and nothing of the size of
//! queries times keys is ever stored.
//!
//! Queries lie across the lanes of vectors. So keys and values are read where they are, one number for a whole vector of queries,
//! whatever a head's width; and a query's maximum and sum are found without adding up lanes.

#[cfg(target_arch = "x86_64")]
use pulp::NullaryFnOnce;
use pulp::{Simd, WithSimd};

use super::disjoint::Disjoint;
#[cfg(target_arch = "x86_64")]
use super::instructions::Pairs;
use super::instructions::{Arithmetic, Single, arch, vectorised};
use super::mathematics::exponential;

/// Queries of a block: four of the widest vectors.
pub(super) const BLOCK: usize = 64;
/// Keys of a tile, a multiple of [`ROWS`], and of one of wide heads: its keys and values stay in a core's second cache, where
/// every block of queries finds them.
const TILE: usize = 120;
const WIDE_TILE: usize = 60;
/// Keys, or columns of values, whose sums with four vectors of queries fill the registers of AVX-512.
const ROWS: usize = 6;
/// Floats of the widest vectors.
const LANES: usize = 16;

/// One head's keys and values, where they lie: floats, or pairs of bf16. In pairs keys lie as `[count, stride / 2]`, values as
/// `[count / 2, stride]`, two rows in one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a> {
    /// Rows of `stride` floats; a key is the first `width` of its row.
    pub(super) keys: &'a [f32],
    /// Likewise.
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
    /// Keys that there are.
    pub(super) count: usize,
    /// Columns of a head.
    pub(super) width: usize,
}

/// Some queries of one head.
pub(super) struct Queries<'a, 'b> {
    pub(super) head: Head<'a>,
    /// Rows of the head's stride; a query is the first `width` of its row.
    pub(super) queries: &'a [f32],
    /// Likewise, from `start` on, written; nobody else has these places.
    pub(super) out: &'b Disjoint<'a>,
    pub(super) start: usize,
    /// How many; they are taken in blocks of [`BLOCK`].
    pub(super) count: usize,
    /// What scores are multiplied by.
    pub(super) scale: f32,
    /// Keys that query `i` sees: `visible + i` at most.
    pub(super) visible: usize,
    pub(super) workspace: &'b mut Workspace,
}

/// What a thread needs beside inputs and outputs.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    /// `[TILE, BLOCK]`.
    scores: Vec<f32>,
    /// `[blocks, width, BLOCK]`.
    sums: Vec<f32>,
    /// The queries, scaled, `[blocks, width, BLOCK]`.
    scaled: Vec<f32>,
    /// What each block has seen so far.
    running: Vec<Running>,
}

/// The running softmax of a block of queries, of the scores' powers of two.
#[derive(Debug, Clone, Copy)]
struct Running {
    largest: [f32; BLOCK],
    total: [f32; BLOCK],
    /// What a tile leaves of the sums before it.
    kept: [f32; BLOCK],
}

/// Runs queries with the processor's widest vectors.
pub(super) fn attend(queries: Queries<'_, '_>) {
    arch().dispatch(queries);
}

#[inline(always)]
fn load<S: Simd, const V: usize>(_: S, x: &[f32]) -> [S::f32s; V] {
    let (vectors, _) = S::as_simd_f32s(&x[..V * S::F32_LANES]);
    std::array::from_fn(|v| vectors[v])
}

#[inline(always)]
fn store<S: Simd, const V: usize>(_: S, x: &mut [f32], values: [S::f32s; V]) {
    let (vectors, _) = S::as_mut_simd_f32s(&mut x[..V * S::F32_LANES]);
    for (out, value) in vectors.iter_mut().zip(values) {
        *out = value;
    }
}

impl WithSimd for Queries<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.attend::<S, Single, 4, 1>((simd, Single)),
            _ => self.attend::<S, Single, 2, 1>((simd, Single)),
        }
    }
}

/// Runs queries by products of pairs; every query sees every key.
#[cfg(target_arch = "x86_64")]
pub(super) fn attend_in_pairs(queries: Queries<'_, '_>, pairs: Pairs) {
    pairs.vectorize(pairs.simd(), InPairs { queries, pairs });
}

#[cfg(target_arch = "x86_64")]
struct InPairs<'a, 'b> {
    queries: Queries<'a, 'b>,
    pairs: Pairs,
}

#[cfg(target_arch = "x86_64")]
impl NullaryFnOnce for InPairs<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.queries.attend::<_, _, 4, 2>((self.pairs.simd(), self.pairs));
    }
}

impl Queries<'_, '_> {
    /// With `V` vectors of queries in registers, and `P` values in the place of one: 1, or 2 in pairs.
    #[expect(unsafe_code, reason = "each job has places of its own, see `Queries::out`")]
    #[inline(always)]
    fn attend<S: Simd, A: Arithmetic<S>, const V: usize, const P: usize>(self, by: (S, A)) {
        let Self { head, queries, out, start, count, scale, visible, workspace } = self;
        let Workspace { scores, sums, scaled, running } = workspace;
        let (blocks, size) = (count.div_ceil(BLOCK), head.width * BLOCK);
        let packed = size / P;
        let tile = if head.width > 256 { WIDE_TILE } else { TILE };
        scores.resize(TILE * BLOCK, 0.0);
        sums.clear();
        sums.resize(blocks * size, 0.0);
        // Absent queries of the last block are computed as zeros and not written.
        scaled.clear();
        scaled.resize(blocks * packed, 0.0);
        running.clear();
        let nothing = [f32::NEG_INFINITY; BLOCK];
        running.resize(blocks, Running { largest: nothing, total: [0.0; BLOCK], kept: [0.0; BLOCK] });
        let scale = scale * std::f32::consts::LOG2_E;
        for (i, row) in queries.chunks(head.stride).take(count).enumerate() {
            let scaled = &mut scaled[i / BLOCK * packed + i % BLOCK..];
            for (values, scaled) in row[..head.width].chunks_exact(P).zip(scaled.iter_mut().step_by(BLOCK)) {
                *scaled = match values {
                    [first, second] => pair(first * scale, second * scale),
                    _ => values[0] * scale,
                };
            }
        }
        let seen = head.count.min(visible + count - 1);
        for first in (0..seen).step_by(tile) {
            for (block, running) in running.iter_mut().enumerate() {
                // The keys that the block's first query sees at most, and its last.
                let visible = visible + block * BLOCK;
                let last = head.count.min(visible + BLOCK.min(count - block * BLOCK) - 1);
                if first >= last {
                    continue;
                }
                let keys = tile.min(last - first);
                let scores = &mut scores[..keys * BLOCK];
                let scaled = &scaled[block * packed..(block + 1) * packed];
                products::<S, A, V, P>(by, head, scaled, scores, first);
                hide(scores, f32::NEG_INFINITY, first, visible);
                running.add::<S, V, P>(by.0, scores);
                if P == 1 {
                    hide(scores, 0.0, first, visible);
                }
                let scores = &scores[..keys.div_ceil(P) * BLOCK];
                let sums = &mut sums[block * size..][..size];
                weighted::<S, A, V, P>(by, head, scores, &running.kept, sums, first);
            }
        }
        for i in 0..count {
            let by = 1.0 / running[i / BLOCK].total[i % BLOCK];
            let sums = sums[i / BLOCK * size + i % BLOCK..].iter().step_by(BLOCK);
            // SAFETY: places of these queries.
            let row = unsafe { out.part(start + i * head.stride, head.width) };
            for (out, sum) in row.iter_mut().zip(sums) {
                *out = sum * by;
            }
        }
    }
}

/// Sets what queries do not see: key `first + j` of query `i` where it is not below `visible + i`.
#[inline(always)]
fn hide(scores: &mut [f32], value: f32, first: usize, visible: usize) {
    for (j, row) in scores.chunks_exact_mut(BLOCK).enumerate().skip(visible.saturating_sub(first)) {
        let blind = (first + j + 1).saturating_sub(visible).min(BLOCK);
        row[..blind].fill(value);
    }
}

impl Running {
    /// Turns a tile's scores into weights, in pairs of keys those of the first half of the places where `P` is 2, and notes what is left of the sums before it where a larger score has come.
    #[inline(always)]
    fn add<S: Simd, const V: usize, const P: usize>(&mut self, simd: S, scores: &mut [f32]) {
        let step = V * S::F32_LANES;
        for at in (0..BLOCK).step_by(step) {
            let largest: [S::f32s; V] = load(simd, &self.largest[at..]);
            let mut top = largest;
            for row in scores.chunks_exact(BLOCK) {
                for (top, score) in top.iter_mut().zip(load::<S, V>(simd, &row[at..])) {
                    *top = simd.max_f32s(*top, score);
                }
            }
            let kept = powers(simd, largest, top);
            let mut total: [S::f32s; V] = load(simd, &self.total[at..]);
            for (total, kept) in total.iter_mut().zip(kept) {
                *total = simd.mul_f32s(*total, kept);
            }
            let keys = scores.len() / BLOCK;
            for key in (0..keys).step_by(P) {
                let mut weights = weighed(simd, &scores[key * BLOCK + at..], top, &mut total);
                if P == 2 {
                    let other = match key + 1 < keys {
                        true => weighed(simd, &scores[(key + 1) * BLOCK + at..], top, &mut total),
                        false => [simd.splat_f32s(0.0); V],
                    };
                    for (weight, other) in weights.iter_mut().zip(other) {
                        *weight = pairs_of(simd, *weight, other);
                    }
                }
                store(simd, &mut scores[key / P * BLOCK + at..], weights);
            }
            store(simd, &mut self.largest[at..], top);
            store(simd, &mut self.kept[at..], kept);
            store(simd, &mut self.total[at..], total);
        }
    }
}

/// The weights of scores, which are added to the totals.
#[inline(always)]
fn weighed<S: Simd, const V: usize>(
    simd: S,
    scores: &[f32],
    top: [S::f32s; V],
    total: &mut [S::f32s; V],
) -> [S::f32s; V] {
    let weights = powers(simd, load(simd, scores), top);
    for (total, weight) in total.iter_mut().zip(weights) {
        *total = simd.add_f32s(*total, weight);
    }
    weights
}

/// Two values rounded to bf16 (ties away from zero) in the place of one.
#[inline(always)]
fn pair(first: f32, second: f32) -> f32 {
    let (first, second) = (first.to_bits().wrapping_add(0x8000), second.to_bits().wrapping_add(0x8000));
    f32::from_bits(first >> 16 | second & 0xffff_0000)
}

/// As [`pair`], of vectors.
#[inline(always)]
fn pairs_of<S: Simd>(simd: S, first: S::f32s, second: S::f32s) -> S::f32s {
    let half = simd.splat_u32s(0x8000);
    let first = simd.add_u32s(simd.transmute_u32s_f32s(first), half);
    let second = simd.add_u32s(simd.transmute_u32s_f32s(second), half);
    let low = simd.wrapping_dyn_shr_u32s(first, simd.splat_u32s(16));
    let high = simd.and_u32s(second, simd.splat_u32s(0xffff_0000));
    simd.transmute_f32s_u32s(simd.or_u32s(low, high))
}

/// [`power`] of differences.
#[inline(always)]
fn powers<S: Simd, const V: usize>(simd: S, mut x: [S::f32s; V], top: [S::f32s; V]) -> [S::f32s; V] {
    for (x, top) in x.iter_mut().zip(top) {
        *x = power(simd, simd.sub_f32s(*x, top));
    }
    x
}

/// 2ˣ for x ≤ 0, at least 2⁻¹²⁶: the polynomial of degree 5 whose largest relative error over [−½, ½] is least, 2.2e-7 as it is
/// computed, times a power of two that is added to the exponent.
#[inline(always)]
fn power<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to a whole number
    let x = simd.max_f32s(simd.splat_f32s(-126.0), x);
    let shifted = simd.add_f32s(x, simd.splat_f32s(ROUND));
    let rest = simd.sub_f32s(x, simd.sub_f32s(shifted, simd.splat_f32s(ROUND)));
    let mut p = simd.splat_f32s(1.327_647_2e-3);
    for coefficient in [9.675_541e-3, 5.550_713e-2, 0.240_221_2, 0.693_146_94, 1.000_000_1] {
        p = simd.mul_add_e_f32s(p, rest, simd.splat_f32s(coefficient));
    }
    let whole = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(p), whole))
}

/// Scores of a tile of keys, from `first` on, and a block of queries.
#[inline(always)]
fn products<S: Simd, A: Arithmetic<S>, const V: usize, const P: usize>(
    by: (S, A),
    head: Head<'_>,
    scaled: &[f32],
    scores: &mut [f32],
    first: usize,
) {
    for (six, out) in scores.chunks_mut(ROWS * BLOCK).enumerate() {
        let keys = &head.keys[(first + six * ROWS) * head.stride / P..];
        match out.len() / BLOCK {
            1 => score::<S, A, 1, V, P>(by, head, keys, scaled, out),
            2 => score::<S, A, 2, V, P>(by, head, keys, scaled, out),
            3 => score::<S, A, 3, V, P>(by, head, keys, scaled, out),
            4 => score::<S, A, 4, V, P>(by, head, keys, scaled, out),
            5 => score::<S, A, 5, V, P>(by, head, keys, scaled, out),
            _ => score::<S, A, ROWS, V, P>(by, head, keys, scaled, out),
        }
    }
}

/// Scores of `R` keys.
#[inline(always)]
fn score<S: Simd, A: Arithmetic<S>, const R: usize, const V: usize, const P: usize>(
    (simd, by): (S, A),
    head: Head<'_>,
    keys: &[f32],
    scaled: &[f32],
    out: &mut [f32],
) {
    let keys: [&[f32]; R] = std::array::from_fn(|r| &keys[r * head.stride / P..][..head.width / P]);
    let step = V * S::F32_LANES;
    for at in (0..BLOCK).step_by(step) {
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for (c, queries) in scaled.chunks_exact(BLOCK).take(head.width / P).enumerate() {
            let queries: [S::f32s; V] = load(simd, &queries[at..]);
            for (sums, key) in sums.iter_mut().zip(keys) {
                let key = simd.splat_f32s(key[c]);
                for (sum, queries) in sums.iter_mut().zip(queries) {
                    *sum = by.add(simd, queries, key, *sum);
                }
            }
        }
        for (out, sums) in out.chunks_exact_mut(BLOCK).zip(sums) {
            store(simd, &mut out[at..], sums);
        }
    }
}

/// Adds the values from `first` on, weighted by a tile of scores, to what is kept of the sums.
#[inline(always)]
fn weighted<S: Simd, A: Arithmetic<S>, const V: usize, const P: usize>(
    by: (S, A),
    head: Head<'_>,
    scores: &[f32],
    kept: &[f32; BLOCK],
    sums: &mut [f32],
    first: usize,
) {
    for (six, sums) in sums.chunks_mut(ROWS * BLOCK).enumerate() {
        let values = &head.values[first / P * head.stride + six * ROWS..];
        match sums.len() / BLOCK {
            1 => columns::<S, A, 1, V>(by, head, values, scores, kept, sums),
            2 => columns::<S, A, 2, V>(by, head, values, scores, kept, sums),
            3 => columns::<S, A, 3, V>(by, head, values, scores, kept, sums),
            4 => columns::<S, A, 4, V>(by, head, values, scores, kept, sums),
            5 => columns::<S, A, 5, V>(by, head, values, scores, kept, sums),
            _ => columns::<S, A, ROWS, V>(by, head, values, scores, kept, sums),
        }
    }
}

/// `R` columns of values.
#[inline(always)]
fn columns<S: Simd, A: Arithmetic<S>, const R: usize, const V: usize>(
    (simd, by): (S, A),
    head: Head<'_>,
    values: &[f32],
    scores: &[f32],
    kept: &[f32; BLOCK],
    sums: &mut [f32],
) {
    let step = V * S::F32_LANES;
    for at in (0..BLOCK).step_by(step) {
        let kept: [S::f32s; V] = load(simd, &kept[at..]);
        let mut held = [[simd.splat_f32s(0.0); V]; R];
        for (held, sums) in held.iter_mut().zip(sums.chunks_exact(BLOCK)) {
            *held = load(simd, &sums[at..]);
            for (held, kept) in held.iter_mut().zip(kept) {
                *held = simd.mul_f32s(*held, kept);
            }
        }
        for (scores, values) in scores.chunks_exact(BLOCK).zip(values.chunks(head.stride)) {
            let scores: [S::f32s; V] = load(simd, &scores[at..]);
            for (held, value) in held.iter_mut().zip(&values[..R]) {
                let value = simd.splat_f32s(*value);
                for (sum, score) in held.iter_mut().zip(scores) {
                    *sum = by.add(simd, score, value, *sum);
                }
            }
        }
        for (sums, held) in sums.chunks_exact_mut(BLOCK).zip(held) {
            store(simd, &mut sums[at..], held);
        }
    }
}

/// Rows of `keys` scores made weights, each row's sum one; what a query does not see is zero.
pub(super) fn softmax_rows(scores: &mut [f32], keys: usize, scale: f32, visible: impl Fn(usize) -> usize) {
    vectorised(
        #[inline(always)]
        || {
            for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
                let there = visible(i).min(keys);
                row[there..].fill(0.0);
                let row = &mut row[..there];
                let mut lanes = [f32::NEG_INFINITY; LANES];
                for chunk in row.chunks(LANES) {
                    for (lane, value) in lanes.iter_mut().zip(chunk) {
                        *lane = if *value > *lane { *value } else { *lane };
                    }
                }
                let top = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
                let mut sums = [0.0_f32; LANES];
                for chunk in row.chunks_mut(LANES) {
                    for (sum, value) in sums.iter_mut().zip(chunk) {
                        *value = exponential((*value - top) * scale);
                        *sum += *value;
                    }
                }
                let by = 1.0 / sums.iter().sum::<f32>();
                row.iter_mut().for_each(|value| *value *= by);
            }
        },
    );
}

/// The gradient of the scores from that of the weights, in place of it: `w · (g − Σ w g) · scale` row by row.
pub(super) fn softmax_gradient(weights: &[f32], gradient: &mut [f32], keys: usize, scale: f32) {
    vectorised(
        #[inline(always)]
        || {
            for (weights, gradient) in weights.chunks_exact(keys).zip(gradient.chunks_exact_mut(keys)) {
                let mut sums = [0.0_f32; LANES];
                for (w, g) in weights.chunks(LANES).zip(gradient.chunks(LANES)) {
                    for ((sum, w), g) in sums.iter_mut().zip(w).zip(g) {
                        *sum += w * g;
                    }
                }
                let mean = sums.iter().sum::<f32>();
                for (w, g) in weights.iter().zip(gradient) {
                    *g = w * (*g - mean) * scale;
                }
            }
        },
    );
}
