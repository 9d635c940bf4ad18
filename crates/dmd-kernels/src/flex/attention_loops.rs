//! Attention of some blocks of queries to all keys, a tile of keys at a time, with a running maximum and sum: the scores of
//! a block and a tile stay in a core's first cache, a tile's keys and values in its second, and nothing of the size of
//! queries times keys is ever stored.

use pulp::{Arch, Simd, WithSimd};

use super::mathematics::exponential;

/// Queries of a block: with four vectors of keys they fill the registers of AVX-512.
pub(super) const BLOCK: usize = 6;
/// Keys of a tile.
pub(super) const TILE: usize = 256;
/// Keys and widths are padded to whole vectors of this many floats, and keys to [`KEYS`].
pub(super) const LANES: usize = 16;
/// What the number of keys is padded to a multiple of.
pub(super) const KEYS: usize = 4 * LANES;

/// One head's keys and values, laid out for the loops.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a> {
    /// `[width, padded keys]`: keys transposed.
    pub(super) keys: &'a [f32],
    /// `[padded keys, padded width]`.
    pub(super) values: &'a [f32],
    /// Keys that there are.
    pub(super) count: usize,
    /// Keys with padding, a multiple of [`KEYS`].
    pub(super) padded: usize,
    /// Columns of a head.
    pub(super) width: usize,
    /// Columns with padding, a multiple of [`LANES`].
    pub(super) padded_width: usize,
}

/// Some queries of one head.
pub(super) struct Queries<'a, 'b> {
    pub(super) head: Head<'a>,
    /// Rows of `stride` floats; a query is the first `width` of its row.
    pub(super) queries: &'a [f32],
    /// Likewise, written.
    pub(super) out: &'b mut [f32],
    pub(super) stride: usize,
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
    /// `[BLOCK, TILE]`.
    scores: Vec<f32>,
    /// `[blocks, BLOCK, padded width]`.
    sums: Vec<f32>,
    /// The queries, scaled, `[blocks, width, BLOCK]`.
    scaled: Vec<f32>,
    /// What each block has seen so far.
    running: Vec<Running>,
}

/// The running softmax of a block of queries.
#[derive(Debug, Clone, Copy)]
struct Running {
    largest: [f32; BLOCK],
    total: [f32; BLOCK],
}

/// Runs queries with the processor's widest vectors.
pub(super) fn attend(queries: Queries<'_, '_>) {
    Arch::new().dispatch(queries);
}

/// Keys of a tile for heads of a width: keys and values of a tile stay in a core's second cache, where every block of
/// queries finds them.
fn tile_of(width: usize) -> usize {
    if width > 256 { TILE / 2 } else { TILE }
}

impl WithSimd for Queries<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { head, queries, out, stride, count, scale, visible, workspace } = self;
        let Workspace { scores, sums, scaled, running } = workspace;
        let blocks = count.div_ceil(BLOCK);
        scores.resize(BLOCK * TILE, 0.0);
        sums.clear();
        sums.resize(blocks * BLOCK * head.padded_width, 0.0);
        scaled.clear();
        scaled.resize(blocks * BLOCK * head.width, 0.0);
        running.clear();
        running.resize(blocks, Running { largest: [f32::NEG_INFINITY; BLOCK], total: [0.0; BLOCK] });
        // Absent queries of the last block are computed as zeros and not written.
        for (i, row) in queries.chunks(stride).take(count).enumerate() {
            let scaled = &mut scaled[i / BLOCK * head.width * BLOCK..];
            for (c, value) in row[..head.width].iter().enumerate() {
                scaled[c * BLOCK + i % BLOCK] = value * scale;
            }
        }
        let seen = head.count.min(visible + count - 1);
        let (mut first, tile) = (0, tile_of(head.width));
        while first < seen {
            let keys = tile.min(head.padded - first);
            for (block, running) in running.iter_mut().enumerate() {
                // The keys that the block's first query sees at most, and its last.
                let visible = visible + block * BLOCK;
                let queries = BLOCK.min(count - block * BLOCK);
                if first >= head.count.min(visible + queries - 1) {
                    continue;
                }
                let scaled = &scaled[block * head.width * BLOCK..(block + 1) * head.width * BLOCK];
                let sums = &mut sums[block * BLOCK * head.padded_width..];
                products(simd, head, scaled, scores, first, keys);
                running.add(head, scores, sums, visible, (first, keys));
                weighted(simd, head, scores, sums, first, keys);
            }
            first += tile;
        }
        for (i, row) in out.chunks_mut(stride).take(count).enumerate() {
            let by = 1.0 / running[i / BLOCK].total[i % BLOCK];
            let sums = &sums[i * head.padded_width..];
            for (out, sum) in row[..head.width].iter_mut().zip(sums) {
                *out = sum * by;
            }
        }
    }
}

impl Running {
    /// Turns a tile's scores into weights, and shrinks what was summed before where a larger score has come.
    #[inline(always)]
    fn add(
        &mut self,
        head: Head<'_>,
        scores: &mut [f32],
        sums: &mut [f32],
        visible: usize,
        (first, keys): (usize, usize),
    ) {
        let Self { largest, total } = self;
        for i in 0..BLOCK {
            let row = &mut scores[i * TILE..i * TILE + keys];
            let there = head.count.min(visible + i).saturating_sub(first).min(keys);
            row[there..].fill(f32::NEG_INFINITY);
            let top = maximum(row).max(largest[i]);
            if top == f32::NEG_INFINITY {
                row.fill(0.0); // sees nothing of this tile, and nothing yet
                continue;
            }
            let shrink = if largest[i] == top { 1.0 } else { exponential(largest[i] - top) };
            largest[i] = top;
            total[i] = total[i] * shrink + exponentiate(row, top, there);
            if shrink != 1.0 {
                for sum in &mut sums[i * head.padded_width..(i + 1) * head.padded_width] {
                    *sum *= shrink;
                }
            }
        }
    }
}

/// Scores of a block of queries and a tile of keys, four vectors of keys at a time.
#[inline(always)]
fn products<S: Simd>(simd: S, head: Head<'_>, scaled: &[f32], scores: &mut [f32], first: usize, keys: usize) {
    const V: usize = 4;
    let step = V * S::F32_LANES;
    let mut at = 0;
    // Padded keys are a multiple of four of the widest vectors.
    while at < keys {
        let mut sums = [[simd.splat_f32s(0.0); V]; BLOCK];
        for (c, queries) in scaled.chunks_exact(BLOCK).enumerate() {
            let start = c * head.padded + first + at;
            let (vectors, _) = S::as_simd_f32s(&head.keys[start..start + step]);
            let vectors: [S::f32s; V] = std::array::from_fn(|v| vectors[v]);
            for (sums, query) in sums.iter_mut().zip(queries) {
                let query = simd.splat_f32s(*query);
                for (sum, vector) in sums.iter_mut().zip(vectors) {
                    *sum = simd.mul_add_e_f32s(vector, query, *sum);
                }
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            let (out, _) = S::as_mut_simd_f32s(&mut scores[i * TILE + at..i * TILE + at + step]);
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum;
            }
        }
        at += step;
    }
}

#[inline(always)]
fn maximum(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in row.chunks_exact(LANES) {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// `exp(score − top)` of the keys that are there, zero for the rest, and their sum.
#[inline(always)]
fn exponentiate(row: &mut [f32], top: f32, there: usize) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    for chunk in row.chunks_exact_mut(LANES) {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            let weight = exponential(*value - top);
            *value = weight;
            *lane += weight;
        }
    }
    let whole: f32 = lanes.iter().sum();
    // The exponential is clamped, so what is not there is e⁻⁸⁷ and not zero: at most 256 times 1.6e-38.
    row[there..].fill(0.0);
    whole
}

/// Adds the values, weighted by a tile of scores.
#[inline(always)]
fn weighted<S: Simd>(simd: S, head: Head<'_>, scores: &[f32], sums: &mut [f32], first: usize, keys: usize) {
    let vectors = head.padded_width / S::F32_LANES;
    let mut done = 0;
    while done < vectors {
        let step = match vectors - done {
            1 => columns::<S, 1>(simd, head, scores, sums, (first, keys), done),
            2 => columns::<S, 2>(simd, head, scores, sums, (first, keys), done),
            3 => columns::<S, 3>(simd, head, scores, sums, (first, keys), done),
            5 if S::F32_LANES == 16 => columns::<S, 3>(simd, head, scores, sums, (first, keys), done),
            _ if S::F32_LANES == 16 => columns::<S, 4>(simd, head, scores, sums, (first, keys), done),
            _ => columns::<S, 2>(simd, head, scores, sums, (first, keys), done),
        };
        done += step;
    }
}

/// `V` vectors of columns, from vector `done` on.
#[inline(always)]
fn columns<S: Simd, const V: usize>(
    simd: S,
    head: Head<'_>,
    scores: &[f32],
    sums: &mut [f32],
    (first, keys): (usize, usize),
    done: usize,
) -> usize {
    let lanes = S::F32_LANES;
    let at = done * lanes;
    let mut held = [[simd.splat_f32s(0.0); V]; BLOCK];
    for (i, held) in held.iter_mut().enumerate() {
        let start = i * head.padded_width + at;
        let (vectors, _) = S::as_simd_f32s(&sums[start..start + V * lanes]);
        *held = std::array::from_fn(|v| vectors[v]);
    }
    let rows: [&[f32]; BLOCK] = std::array::from_fn(|i| &scores[i * TILE..i * TILE + keys]);
    for key in 0..keys {
        let start = (first + key) * head.padded_width + at;
        let (vectors, _) = S::as_simd_f32s(&head.values[start..start + V * lanes]);
        let vectors: [S::f32s; V] = std::array::from_fn(|v| vectors[v]);
        for (held, row) in held.iter_mut().zip(rows) {
            let weight = simd.splat_f32s(row[key]);
            for (sum, vector) in held.iter_mut().zip(vectors) {
                *sum = simd.mul_add_e_f32s(vector, weight, *sum);
            }
        }
    }
    for (i, held) in held.into_iter().enumerate() {
        let start = i * head.padded_width + at;
        let (out, _) = S::as_mut_simd_f32s(&mut sums[start..start + V * lanes]);
        for (out, held) in out.iter_mut().zip(held) {
            *out = held;
        }
    }
    V
}

/// Rows of `keys` scores made weights, each row's sum one; what a query does not see is zero.
pub(super) fn softmax_rows(scores: &mut [f32], keys: usize, scale: f32, visible: impl Fn(usize) -> usize) {
    Arch::new().dispatch(
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
    Arch::new().dispatch(
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
