//! Products of matrices whose left rows lie one after another, as activations `[rows, inputs]` and the weights of a 1×1
//! convolution do. The right matrix is copied where it is used, some of its rows by [`STRIP`] columns at a time, so that the inner
//! loop finds it in a core's first cache, whichever way it lies; that costs a few percent, and no memory.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::disjoint::Disjoint;
use super::scratch::Scratch;
use super::transposed::transposed;

/// Columns that are computed at a time: four of the widest vectors.
pub(super) const STRIP: usize = 64;
/// Rows of the left matrix whose sums with a strip fill the registers of AVX-512.
const ROWS: usize = 6;
/// Rows of the right matrix that are multiplied at a time: 32 KiB of a strip, which a core's first cache holds beside the left rows.
const DEPTH: usize = 128;
/// Rows of the left matrix that a job takes, a multiple of [`ROWS`]: sums and left rows stay in a core's second cache.
const CHUNK: usize = 504;
/// Multiplications below which another thread costs more than it saves.
const ALONE: usize = 1 << 18;

/// The right matrix, `[depth, columns]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Right<'a> {
    pub(super) values: &'a [f32],
    pub(super) depth: usize,
    pub(super) columns: usize,
    /// Whether it lies as `[columns, depth]`.
    pub(super) turned: bool,
}

/// What the sums start from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bias<'a> {
    /// Zero.
    None,
    /// One value per row of the result.
    Rows(&'a [f32]),
    /// One value per column.
    Columns(&'a [f32]),
}

/// `left · right + bias` into `out: [rows, columns]`, for `left: [rows, depth]`.
pub(super) fn product(left: &[f32], right: Right<'_>, bias: Bias<'_>, out: &mut [f32]) {
    if out.is_empty() {
        return;
    }
    let rows = out.len() / right.columns;
    let (strips, chunks) = (right.columns.div_ceil(STRIP), rows.div_ceil(CHUNK));
    // Two strips at a time read the left rows half as often, where enough jobs remain for all threads.
    let wide = if strips * chunks >= 8 * rayon::current_num_threads() { 2 } else { 1 };
    let (groups, out) = (strips.div_ceil(wide), Disjoint::new(out));
    // Equal chunks, whole blocks of rows but for the last.
    let chunk = rows.div_ceil(chunks).next_multiple_of(ROWS);
    let room = || Scratch::new(STRIP * DEPTH + ROWS * STRIP);
    let run = |room: &mut Scratch, job: usize| {
        let first = job / groups * chunk;
        let count = chunk.min(rows.saturating_sub(first));
        let at = job % groups * wide * STRIP;
        let until = (at + wide * STRIP).min(right.columns);
        Arch::new().dispatch(Job { left, right, bias, out: &out, first, count, at, until, room });
    };
    if rows * right.columns * right.depth < ALONE {
        let mut room = room();
        return (0..groups * chunks).for_each(|job| run(&mut room, job));
    }
    (0..groups * chunks).into_par_iter().for_each_init(room, run);
}

/// Some rows of some strips.
struct Job<'a> {
    left: &'a [f32],
    right: Right<'a>,
    bias: Bias<'a>,
    out: &'a Disjoint<'a>,
    first: usize,
    count: usize,
    at: usize,
    until: usize,
    /// A part of a strip, and sums of a strip that is narrower than the others.
    room: &'a mut [f32],
}

impl WithSimd for Job<'_> {
    type Output = ();

    #[expect(unsafe_code, reason = "each job has rows and columns of its own, see `product`")]
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { left, right, bias, out, first, count, at, until, room } = self;
        let Right { depth, columns, .. } = right;
        let (packed, narrow) = room.split_at_mut(STRIP * DEPTH);
        let parts = depth.div_ceil(DEPTH).max(1);
        for part in 0..parts {
            let (from, to) = (part * depth / parts, (part + 1) * depth / parts);
            for at in (at..until).step_by(STRIP) {
                let width = STRIP.min(until - at);
                let packed = &mut packed[..(to - from) * STRIP];
                right.pack(from..to, at, width, packed);
                let mut of_columns = [0.0; STRIP];
                if let Bias::Columns(bias) = bias {
                    of_columns[..width].copy_from_slice(&bias[at..at + width]);
                }
                let mut row = first;
                while row < first + count {
                    let start = match (part, bias) {
                        (0, Bias::Rows(bias)) => Start::Rows(&bias[row..]),
                        (0, _) => Start::Columns(&of_columns),
                        _ => Start::Sums,
                    };
                    let left = |r: usize| &left[(row + r) * depth..][from..to];
                    // SAFETY: a row of this job's strip; each is taken once.
                    let place = |r: usize| unsafe { out.part((row + r) * columns + at, width) };
                    if first + count - row < ROWS {
                        let sums = Sums { rows: [place(0)], width, start, narrow: &mut *narrow };
                        sums.add::<S>(simd, [left(0)], packed);
                        row += 1;
                        continue;
                    }
                    let rows: [&mut [f32]; ROWS] = std::array::from_fn(place);
                    let sums = Sums { rows, width, start, narrow: &mut *narrow };
                    sums.add::<S>(simd, std::array::from_fn(left), packed);
                    row += ROWS;
                }
            }
        }
    }
}

impl Right<'_> {
    /// Some rows of a strip to `[rows, STRIP]`, zeros beyond its width.
    #[inline(always)]
    fn pack(&self, rows: std::ops::Range<usize>, at: usize, width: usize, out: &mut [f32]) {
        if self.turned {
            transposed(&self.values[at * self.depth + rows.start..], self.depth, width, out, STRIP);
            return;
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(STRIP)) {
            out[..width].copy_from_slice(&self.values[row * self.columns + at..][..width]);
            out[width..].fill(0.0);
        }
    }
}

/// What sums start from.
#[derive(Clone, Copy)]
enum Start<'a> {
    /// One value per row.
    Rows(&'a [f32]),
    Columns(&'a [f32; STRIP]),
    /// What is there already.
    Sums,
}

/// Some rows of a strip of the result.
struct Sums<'a, 'b, const R: usize> {
    rows: [&'a mut [f32]; R],
    width: usize,
    start: Start<'b>,
    narrow: &'b mut [f32],
}

impl<const R: usize> Sums<'_, '_, R> {
    /// Adds the products of rows with a part of a strip.
    #[inline(always)]
    fn add<S: Simd>(self, simd: S, left: [&[f32]; R], packed: &[f32]) {
        let Self { mut rows, width, start, narrow } = self;
        if width == STRIP {
            vectors::<S, R>(simd, left, packed, &mut rows, start, STRIP);
            return;
        }
        // Whole vectors reach beyond the result's columns.
        let mut wide = narrow.chunks_exact_mut(STRIP);
        let mut wide: [&mut [f32]; R] = std::array::from_fn(|_| wide.next().unwrap_or_default());
        for (wide, row) in wide.iter_mut().zip(&rows) {
            wide[..width].copy_from_slice(row);
        }
        vectors::<S, R>(simd, left, packed, &mut wide, start, width);
        for (wide, row) in wide.iter().zip(&mut rows) {
            row.copy_from_slice(&wide[..width]);
        }
    }
}

/// As many vectors at a time as there are registers for.
#[inline(always)]
fn vectors<S: Simd, const R: usize>(
    simd: S,
    left: [&[f32]; R],
    packed: &[f32],
    rows: &mut [&mut [f32]; R],
    start: Start<'_>,
    width: usize,
) {
    let lanes = S::F32_LANES;
    let most = if lanes == 16 { 4 } else { 2 };
    let mut at = 0;
    while at < width {
        let count = (width - at).div_ceil(lanes).min(most);
        match count {
            1 => block::<S, R, 1>(simd, left, packed, rows, start, at),
            2 => block::<S, R, 2>(simd, left, packed, rows, start, at),
            3 => block::<S, R, 3>(simd, left, packed, rows, start, at),
            _ => block::<S, R, 4>(simd, left, packed, rows, start, at),
        }
        at += count * lanes;
    }
}

#[inline(always)]
pub(super) fn load<S: Simd, const V: usize>(simd: S, x: &[f32]) -> [S::f32s; V] {
    let (vectors, _) = S::as_simd_f32s(x);
    let mut loaded = [simd.splat_f32s(0.0); V];
    for (to, from) in loaded.iter_mut().zip(vectors) {
        *to = *from;
    }
    loaded
}

#[inline(always)]
pub(super) fn store<S: Simd, const V: usize>(_: S, x: &mut [f32], values: [S::f32s; V]) {
    let (vectors, _) = S::as_mut_simd_f32s(x);
    for (to, from) in vectors.iter_mut().zip(values) {
        *to = from;
    }
}

/// Adds the products of `R` rows with `V` vectors of a strip, from column `at` on.
#[inline(always)]
fn block<S: Simd, const R: usize, const V: usize>(
    simd: S,
    left: [&[f32]; R],
    packed: &[f32],
    rows: &mut [&mut [f32]; R],
    start: Start<'_>,
    at: usize,
) {
    let len = V * S::F32_LANES;
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    for (r, sums) in sums.iter_mut().enumerate() {
        *sums = match start {
            Start::Rows(bias) => [simd.splat_f32s(bias[r]); V],
            Start::Columns(bias) => load::<S, V>(simd, &bias[at..at + len]),
            Start::Sums => load::<S, V>(simd, &rows[r][at..at + len]),
        };
    }
    let depth = left[0].len();
    // Equal lengths are seen by the compiler, which then leaves out the checks.
    let mut equal = left;
    for left in &mut equal {
        *left = &left[..depth];
    }
    for k in 0..depth {
        let vectors = load::<S, V>(simd, &packed[k * STRIP + at..k * STRIP + at + len]);
        for (sums, left) in sums.iter_mut().zip(equal) {
            let value = simd.splat_f32s(left[k]);
            for (sum, vector) in sums.iter_mut().zip(vectors) {
                *sum = simd.mul_add_e_f32s(vector, value, *sum);
            }
        }
    }
    for (row, sums) in rows.iter_mut().zip(sums) {
        store(simd, &mut row[at..at + len], sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers, whose sums are exact in any order.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7 + seed) * 31 % 11) as f32 - 5.0).collect()
    }

    #[test]
    fn products_are_exact() {
        let shapes = [
            (1, 1, 1),
            (6, 64, 128),
            (7, 65, 129),
            (505, 130, 3),
            (13, 200, 300),
            (1009, 70, 140),
            (4, 8, 0),
        ];
        for (rows, columns, depth) in shapes {
            let (left, right) = (numbers(rows * depth, 1), numbers(depth * columns, 2));
            let turned: Vec<f32> =
                (0..columns * depth).map(|i| right[i % depth * columns + i / depth]).collect();
            let (of_rows, of_columns) = (numbers(rows, 3), numbers(columns, 4));
            for bias in [Bias::None, Bias::Rows(&of_rows), Bias::Columns(&of_columns)] {
                let expected = |row: usize, column: usize| {
                    let start = match bias {
                        Bias::None => 0.0,
                        Bias::Rows(bias) => bias[row],
                        Bias::Columns(bias) => bias[column],
                    };
                    (0..depth).map(|k| left[row * depth + k] * right[k * columns + column]).sum::<f32>()
                        + start
                };
                for (values, turned) in [(&right, false), (&turned, true)] {
                    let mut out = vec![f32::NAN; rows * columns];
                    product(&left, Right { values, depth, columns, turned }, bias, &mut out);
                    for (i, value) in out.iter().enumerate() {
                        let right = expected(i / columns, i % columns);
                        assert_eq!(
                            *value, right,
                            "{bias:?} at {i} of {rows}×{columns}, depth {depth}, {turned}"
                        );
                    }
                }
            }
        }
    }
}
