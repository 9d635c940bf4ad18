//! Products of matrices whose left rows lie one after another, as activations `[rows, inputs]` and the weights of a 1×1
//! convolution do. Large results are those of the package gemm. Its copies of both matrices do not pay for small ones; for them
//! the right matrix alone is copied where it is used, some of its rows by [`STRIP`] columns at a time.
//!
//! Where one of the matrices is stored in bf16 and the processor multiplies such numbers, both are rounded to bf16 and multiplied in
//! pairs, summed in single precision; the depth is then counted in pairs.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use pulp::NullaryFnOnce;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::disjoint::Disjoint;
#[cfg(target_arch = "x86_64")]
use super::instructions::Pairs;
use super::instructions::{Arithmetic, Single, arch};
use super::product_loops::blocks;
use super::scratch::Scratch;
use super::stored::Stored;
use super::transposed::transposed;

/// Columns that are computed at a time: four of the widest vectors.
pub(super) const STRIP: usize = 64;
/// Rows of the left matrix whose sums with a strip fill the registers of AVX-512.
const ROWS: usize = 6;
/// Rows of the right matrix that are multiplied at a time.
const DEPTH: usize = 256;
/// Strips that a job has at most. Together, 256 KiB, they stay in a core's second cache, from which the inner loop reads as fast as it
/// multiplies; the left rows then come from memory once for all of them.
const WIDE: usize = 4;
/// Rows of the left matrix that a job takes, a multiple of [`ROWS`]: the sums stay in a core's second cache.
const CHUNK: usize = 264;
/// The same for pairs, whose strips take as long to pack as those of floats and half as long to multiply.
#[cfg(target_arch = "x86_64")]
const CHUNK_OF_PAIRS: usize = 4 * CHUNK;
/// Values from which on a result is gemm's: its rate is the higher one from between 1280 × 256 and 2560 × 256 values on.
const LARGE: usize = 1 << 19;
/// Depth from which on it may be. Below, a row's bits do not depend on how many rows there are: a small model's picture is the same
/// alone and among others.
pub(super) const DEEP: usize = 320;
/// Multiplications below which another thread costs more than it saves.
const ALONE: usize = 1 << 18;

/// The right matrix, `[depth, columns]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Right<'a> {
    pub(super) values: Stored<'a>,
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
pub(super) fn product(left: Stored<'_>, right: Right<'_>, bias: Bias<'_>, out: &mut [f32]) {
    if out.is_empty() {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(pairs) = Pairs::of([left, right.values]) {
        let depth = right.depth.div_ceil(2);
        let left = left.pairs(pairs, right.depth);
        return by_strips(&left, right, depth, Operands::Pairs(pairs), bias, out);
    }
    let left = left.single();
    if out.len() >= LARGE && right.depth >= DEEP {
        return large(&left, right, bias, out);
    }
    by_strips(&left, right, right.depth, Operands::Single, bias, out);
}

/// What is multiplied.
#[derive(Debug, Clone, Copy)]
enum Operands {
    Single,
    #[cfg(target_arch = "x86_64")]
    Pairs(Pairs),
    /// With rows of the right matrix that lie in pairs already.
    #[cfg(target_arch = "x86_64")]
    RowsInPairs(Pairs),
}

/// [`product`] of pairs with a right matrix that is made of pairs of its rows: `[depth / 2, columns]`, for a left one of `depth` columns.
#[cfg(target_arch = "x86_64")]
pub(super) fn product_of_pairs(
    by: Pairs,
    (left, depth): (Stored<'_>, usize),
    (right, columns): (&[f32], usize),
    bias: Bias<'_>,
    out: &mut [f32],
) {
    let left = left.pairs(by, depth);
    let depth = depth.div_ceil(2);
    let right = Right { values: Stored::Single(right), depth, columns, turned: false };
    by_strips(&left, right, depth, Operands::RowsInPairs(by), bias, out);
}

/// [`product`] of a left matrix of floats or pairs, `[rows, depth]`.
fn by_strips(
    left: &[f32],
    right: Right<'_>,
    depth: usize,
    operands: Operands,
    bias: Bias<'_>,
    out: &mut [f32],
) {
    let rows = out.len() / right.columns;
    let most = match operands {
        Operands::Single => CHUNK,
        #[cfg(target_arch = "x86_64")]
        Operands::Pairs(_) | Operands::RowsInPairs(_) => CHUNK_OF_PAIRS,
    };
    let (strips, chunks) = (right.columns.div_ceil(STRIP), rows.div_ceil(most));
    // Equal chunks, whole blocks of rows but for the last, and enough jobs for all threads.
    let chunk = rows.div_ceil(chunks).next_multiple_of(ROWS);
    let alone = rows * right.columns * depth < ALONE;
    let jobs = if alone { 1 } else { 4 * rayon::current_num_threads() };
    let groups = strips.div_ceil(WIDE).max(jobs.div_ceil(chunks)).min(strips);
    let out = Disjoint::new(out);
    let part = depth.min(DEPTH);
    // Beside a part of a strip as it is read, pairs need two rows.
    let room = || Scratch::new((strips.div_ceil(groups) * part + ROWS + part) * STRIP + 2 * DEPTH);
    let run = |room: &mut Scratch, job: usize| {
        let (part, group) = (job / groups, job % groups);
        let first = part * chunk;
        let strips = group * strips / groups..(group + 1) * strips / groups;
        let count = chunk.min(rows.saturating_sub(first));
        let job = Job { left, right, depth, bias, out: &out, first, count, strips, room };
        match operands {
            Operands::Single => arch().dispatch(job),
            #[cfg(target_arch = "x86_64")]
            Operands::Pairs(pairs) => pairs.vectorize(pairs.simd(), JobOfPairs { job, pairs, ready: false }),
            #[cfg(target_arch = "x86_64")]
            Operands::RowsInPairs(pairs) => {
                pairs.vectorize(pairs.simd(), JobOfPairs { job, pairs, ready: true })
            }
        }
    };
    if alone {
        let mut room = room();
        return (0..groups * chunks).for_each(|job| run(&mut room, job));
    }
    (0..groups * chunks).into_par_iter().for_each_init(room, run);
}

/// By the package gemm.
#[expect(unsafe_code, reason = "gemm takes pointers; the sizes are checked before")]
fn large(left: &[f32], right: Right<'_>, bias: Bias<'_>, out: &mut [f32]) {
    let Right { depth, columns, turned, .. } = right;
    let values = right.values.single();
    let rows = out.len() / columns;
    assert_eq!((rows * depth, depth * columns), (left.len(), values.len()), "matrices are whole");
    assert_eq!(out.len(), rows * columns, "the result is whole");
    out.par_chunks_mut(columns).with_min_len(16).enumerate().for_each(|(row, out)| match bias {
        Bias::None => {}
        Bias::Rows(bias) => out.fill(bias[row]),
        Bias::Columns(bias) => out.copy_from_slice(bias),
    });
    let [width, stride] = [columns, depth].map(|size| size as isize);
    let (right_column, right_row) = if turned { (stride, 1) } else { (1, width) };
    let add = !matches!(bias, Bias::None);
    let scale = if add { 1.0 } else { 0.0 };
    let threads = match rayon::current_num_threads() {
        1 => gemm::Parallelism::None,
        _ => gemm::Parallelism::Rayon(0),
    };
    // SAFETY: the three matrices have the sizes and strides that are given, and `out` is borrowed mutably.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            out.as_mut_ptr(),
            1,
            width,
            add,
            left.as_ptr(),
            1,
            stride,
            values.as_ptr(),
            right_column,
            right_row,
            scale,
            1.0_f32,
            false,
            false,
            false,
            threads,
        );
    }
}

/// Some rows of some strips.
struct Job<'a> {
    left: &'a [f32],
    right: Right<'a>,
    /// Floats or pairs of a row of the left matrix.
    depth: usize,
    bias: Bias<'a>,
    out: &'a Disjoint<'a>,
    first: usize,
    count: usize,
    strips: Range<usize>,
    /// A part of each strip; sums of a strip that is narrower than the others; a part of a strip as it is read.
    room: &'a mut [f32],
}

impl WithSimd for Job<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let pack = |right: Right<'_>, rows, strips, read: &mut [f32], out: &mut [f32]| {
            right.pack(rows, strips, read, out);
        };
        self.run(simd, Single, pack);
    }
}

/// A job of pairs.
#[cfg(target_arch = "x86_64")]
struct JobOfPairs<'a> {
    job: Job<'a>,
    pairs: Pairs,
    /// Whether the right matrix's rows lie in pairs.
    ready: bool,
}

#[cfg(target_arch = "x86_64")]
impl NullaryFnOnce for JobOfPairs<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { job, pairs, ready } = self;
        job.run(
            pairs.simd(),
            pairs,
            #[inline(always)]
            |right: Right<'_>, rows, strips, read: &mut [f32], out: &mut [f32]| {
                if ready {
                    right.pack(rows, strips, read, out);
                } else {
                    right.pack_pairs(pairs, rows, strips, read, out);
                }
            },
        );
    }
}

impl Job<'_> {
    /// Multiplies what `pack` puts into strips.
    #[inline(always)]
    fn run<S: Simd, A: Arithmetic<S>>(
        self,
        simd: S,
        by: A,
        pack: impl Fn(Right<'_>, Range<usize>, Range<usize>, &mut [f32], &mut [f32]),
    ) {
        let Self { left, right, depth: whole, bias, out, first, count, strips, room } = self;
        let deep = whole.min(DEPTH) * STRIP + 2 * DEPTH;
        let (all, rest) = room.split_at_mut(room.len() - deep - ROWS * STRIP);
        let (narrow, read) = rest.split_at_mut(ROWS * STRIP);
        let parts = whole.div_ceil(DEPTH).max(1);
        for part in 0..parts {
            let depth = part * whole / parts..(part + 1) * whole / parts;
            let size = depth.len() * STRIP;
            pack(right, depth.clone(), strips.clone(), read, all);
            let mut row = first;
            while row < first + count {
                let rows = match first + count - row {
                    ..4 => 1,
                    4..ROWS => 4,
                    _ => ROWS,
                };
                for (i, strip) in strips.clone().enumerate() {
                    let packed = &all[i * size..(i + 1) * size];
                    let bias = if part == 0 { Some(bias) } else { None };
                    let place =
                        Place { left, right, whole, out, bias, row, at: strip * STRIP, depth: depth.clone() };
                    match rows {
                        1 => place.add::<S, A, 1>((simd, by), packed, narrow),
                        4 => place.add::<S, A, 4>((simd, by), packed, narrow),
                        _ => place.add::<S, A, ROWS>((simd, by), packed, narrow),
                    }
                }
                row += rows;
            }
        }
    }
}

impl Right<'_> {
    /// Some rows of some strips to `[strips, rows, STRIP]`, zeros beyond the last column; `read` has room for the rows of a strip.
    #[inline(always)]
    fn pack(&self, rows: Range<usize>, strips: Range<usize>, read: &mut [f32], out: &mut [f32]) {
        let width = |strip: usize| STRIP.min(self.columns - strip * STRIP);
        let (size, length) = (rows.len() * STRIP, rows.len());
        if self.turned {
            for (strip, out) in strips.zip(out.chunks_exact_mut(size.max(1))) {
                let (at, width) = (strip * STRIP, width(strip));
                if let Stored::Single(values) = self.values {
                    transposed(&values[at * self.depth + rows.start..], self.depth, width, out, STRIP);
                    continue;
                }
                for (column, read) in read.chunks_exact_mut(length.max(1)).take(width).enumerate() {
                    let start = (at + column) * self.depth + rows.start;
                    self.values.part(start..start + length).read(read);
                }
                transposed(read, length, width, out, STRIP);
            }
            return;
        }
        // A row of all strips is read at a time: rows of a picture's pixels lie far apart.
        for (i, row) in rows.enumerate() {
            for (strip, out) in strips.clone().zip(out.chunks_exact_mut(size)) {
                let (start, width) = (row * self.columns + strip * STRIP, width(strip));
                let out = &mut out[i * STRIP..(i + 1) * STRIP];
                self.values.part(start..start + width).read(&mut out[..width]);
                out[width..].fill(0.0);
            }
        }
    }

    /// As [`Self::pack`], rows in pairs, of which `rows` counts; `read` has room for those of a strip and two rows.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn pack_pairs(
        &self,
        by: Pairs,
        rows: Range<usize>,
        strips: Range<usize>,
        read: &mut [f32],
        out: &mut [f32],
    ) {
        let width = |strip: usize| STRIP.min(self.columns - strip * STRIP);
        let (size, length) = (rows.len() * STRIP, rows.len());
        if self.turned {
            let stored = self.values.stored_pairs(self.depth);
            let (turned, read) = read.split_at_mut(length * STRIP);
            for (strip, out) in strips.zip(out.chunks_exact_mut(size.max(1))) {
                let (at, width) = (strip * STRIP, width(strip));
                if let Some(pairs) = stored {
                    let stride = self.depth / 2;
                    transposed(&pairs[at * stride + rows.start..], stride, width, out, STRIP);
                    continue;
                }
                for (column, turned) in turned.chunks_exact_mut(length.max(1)).take(width).enumerate() {
                    let start = (at + column) * self.depth;
                    let ends = [2 * rows.start, self.depth.min(2 * rows.end)].map(|end| start + end);
                    by.paired(self.values.part(ends[0]..ends[1]).read_in(read), turned);
                }
                transposed(turned, length, width, out, STRIP);
            }
            return;
        }
        let (first, second) = read.split_at_mut(STRIP);
        for (i, row) in rows.enumerate() {
            for (strip, out) in strips.clone().zip(out.chunks_exact_mut(size)) {
                let (start, width) = (2 * row * self.columns + strip * STRIP, width(strip));
                let out = &mut out[i * STRIP..(i + 1) * STRIP];
                let first = self.values.part(start..start + width).read_in(first);
                if 2 * row + 1 == self.depth {
                    second[..width].fill(0.0);
                    together(first, &second[..width], out);
                } else {
                    let start = start + self.columns;
                    together(first, self.values.part(start..start + width).read_in(second), out);
                }
                out[width..].fill(0.0);
            }
        }
    }
}

/// Combines values of the first half of the columns with those of the second: `out[i] = gate(first[i], second[i])`.
#[cfg(target_arch = "x86_64")]
pub(super) trait Gate: Copy + Sync {
    fn apply(self, first: &[f32], second: &[f32], out: &mut [f32]);
}

/// Whether [`gated_product`] serves a product with `columns` columns: whole strips in each half.
pub(super) fn gates(columns: usize) -> bool {
    columns > 0 && columns.is_multiple_of(2 * STRIP)
}

/// [`product`] in pairs of a right matrix whose columns [`gates`] is true for, and the gate of its halves, into `out: [rows, columns / 2]`.
/// A strip of each half is multiplied at a time, so that the values before the gate never leave a core's first cache.
#[cfg(target_arch = "x86_64")]
pub(super) fn gated_product<G: Gate>(
    pairs: Pairs,
    left: Stored<'_>,
    right: Right<'_>,
    bias: &[f32],
    gate: G,
    out: &mut [f32],
) {
    let (width, depth) = (right.columns / 2, right.depth.div_ceil(2));
    let rows = out.len() / width;
    let left = left.pairs(pairs, right.depth);
    let (strips, chunks) = (width / STRIP, rows.div_ceil(CHUNK_OF_PAIRS));
    let out = Disjoint::new(out);
    let room = || Scratch::new(3 * depth * STRIP + 2 * (right.depth + STRIP));
    (0..strips * chunks).into_par_iter().for_each_init(room, |room, job| {
        let (chunk, strip) = (job / strips, job % strips);
        let rows = chunk * CHUNK_OF_PAIRS..rows.min((chunk + 1) * CHUNK_OF_PAIRS);
        let job = GatedJob { pairs, left: &left, right, depth, bias, gate, rows, strip, out: &out, room };
        pairs.vectorize(pairs.simd(), job);
    });
}

/// Some rows of a strip of each half.
#[cfg(target_arch = "x86_64")]
struct GatedJob<'a, G> {
    pairs: Pairs,
    left: &'a [f32],
    right: Right<'a>,
    depth: usize,
    bias: &'a [f32],
    gate: G,
    rows: Range<usize>,
    strip: usize,
    out: &'a Disjoint<'a>,
    /// Both strips, and one as it is read.
    room: &'a mut [f32],
}

#[cfg(target_arch = "x86_64")]
impl<G: Gate> NullaryFnOnce for GatedJob<'_, G> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let size = self.depth * STRIP;
        let strips = self.right.columns / 2 / STRIP;
        let (first, rest) = self.room.split_at_mut(size);
        let (second, read) = rest.split_at_mut(size);
        for (strip, packed) in [(self.strip, &mut *first), (strips + self.strip, &mut *second)] {
            self.right.pack_pairs(self.pairs, 0..self.depth, strip..strip + 1, read, packed);
        }
        let place = GatedPlace {
            by: self.pairs,
            left: self.left,
            depth: self.depth,
            width: self.right.columns / 2,
            at: self.strip * STRIP,
            packed: [first, second],
            bias: self.bias,
            gate: self.gate,
            out: self.out,
        };
        let mut row = self.rows.start;
        while row < self.rows.end {
            row += match self.rows.end - row {
                ..4 => place.rows::<1>(row),
                4..ROWS => place.rows::<4>(row),
                _ => place.rows::<ROWS>(row),
            };
        }
    }
}

/// A strip of each half, packed.
#[cfg(target_arch = "x86_64")]
struct GatedPlace<'a, G> {
    by: Pairs,
    left: &'a [f32],
    depth: usize,
    width: usize,
    at: usize,
    packed: [&'a [f32]; 2],
    bias: &'a [f32],
    gate: G,
    out: &'a Disjoint<'a>,
}

#[cfg(target_arch = "x86_64")]
impl<G: Gate> GatedPlace<'_, G> {
    /// `R` rows from `row` on; returns `R`.
    #[expect(unsafe_code, reason = "each job has rows and columns of its own, see `gated_product`")]
    #[inline(always)]
    fn rows<const R: usize>(&self, row: usize) -> usize {
        let left: [&[f32]; R] = std::array::from_fn(|r| &self.left[(row + r) * self.depth..][..self.depth]);
        let mut sums = [[[0.0_f32; STRIP]; R]; 2];
        for (half, sums) in sums.iter_mut().enumerate() {
            if !self.bias.is_empty() {
                let bias = &self.bias[half * self.width + self.at..][..STRIP];
                sums.iter_mut().for_each(|sums| sums.copy_from_slice(bias));
            }
            let rows: [&mut [f32]; R] = sums.each_mut().map(|row| &mut row[..]);
            blocks((self.by.simd(), self.by), left, (self.packed[half], STRIP), rows, STRIP, false);
        }
        for (r, (first, second)) in sums[0].iter().zip(&sums[1]).enumerate() {
            // SAFETY: a row of this job's strip.
            let out = unsafe { self.out.part((row + r) * self.width + self.at, STRIP) };
            self.gate.apply(first, second, out);
        }
        R
    }
}

/// Values of two rows, rounded to bf16 (ties to even), in pairs.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn together(first: &[f32], second: &[f32], out: &mut [f32]) {
    let rounded = |value: f32| {
        let bits = value.to_bits();
        bits.wrapping_add(0x7fff + (bits >> 16 & 1))
    };
    for ((out, first), second) in out.iter_mut().zip(first).zip(second) {
        *out = f32::from_bits(rounded(*first) >> 16 | rounded(*second) & 0xffff_0000);
    }
}

/// Some rows of a strip of the result, and the part of the depth that is added to them.
struct Place<'a> {
    left: &'a [f32],
    right: Right<'a>,
    /// Floats or pairs of a row of the left matrix.
    whole: usize,
    out: &'a Disjoint<'a>,
    /// What the sums start from; `None` where they were started before.
    bias: Option<Bias<'a>>,
    row: usize,
    at: usize,
    depth: Range<usize>,
}

impl Place<'_> {
    /// Adds the products of `R` rows with a part of a strip.
    #[expect(unsafe_code, reason = "each job has rows and columns of its own, see `product`")]
    #[inline(always)]
    fn add<S: Simd, A: Arithmetic<S>, const R: usize>(self, by: (S, A), packed: &[f32], narrow: &mut [f32]) {
        let (stride, columns) = (self.whole, self.right.columns);
        let width = STRIP.min(columns - self.at);
        let mut left: [&[f32]; R] = [&[]; R];
        let mut rows: [&mut [f32]; R] = std::array::from_fn(|_| Default::default());
        for (r, (left, row)) in left.iter_mut().zip(&mut rows).enumerate() {
            *left = &self.left[(self.row + r) * stride..][self.depth.clone()];
            // SAFETY: a row of this job's strip; each is taken once.
            *row = unsafe { self.out.part((self.row + r) * columns + self.at, width) };
        }
        if width == STRIP {
            self.start(&mut rows);
            blocks(by, left, (packed, STRIP), rows, STRIP, false);
            return;
        }
        // Whole vectors reach beyond the result's columns.
        self.start(&mut rows);
        let mut wide: [&mut [f32]; R] = std::array::from_fn(|_| Default::default());
        for ((wide, room), row) in wide.iter_mut().zip(narrow.chunks_exact_mut(STRIP)).zip(&rows) {
            room[..width].copy_from_slice(row);
            *wide = room;
        }
        blocks(by, left, (packed, STRIP), wide, width, false);
        for (row, room) in rows.iter_mut().zip(narrow.chunks_exact(STRIP)) {
            row.copy_from_slice(&room[..width]);
        }
    }

    /// Writes the bias where the sums start.
    #[inline(always)]
    fn start(&self, rows: &mut [&mut [f32]]) {
        for (r, row) in rows.iter_mut().enumerate() {
            match self.bias {
                None => {}
                Some(Bias::None) => row.fill(0.0),
                Some(Bias::Rows(bias)) => row.fill(bias[self.row + r]),
                Some(Bias::Columns(bias)) => row.copy_from_slice(&bias[self.at..][..row.len()]),
            }
        }
    }
}

/// [`together`] as an operation.
#[cfg(target_arch = "x86_64")]
pub(super) struct Together<'a> {
    pub(super) first: &'a [f32],
    pub(super) second: &'a [f32],
    pub(super) out: &'a mut [f32],
}

#[cfg(target_arch = "x86_64")]
impl NullaryFnOnce for Together<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        together(self.first, self.second, self.out);
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

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
            (1030, 520, 33),
            (1030, 520, 260),
        ];
        for (rows, columns, depth) in shapes {
            let (left, right) = (numbers(rows * depth, 1), numbers(depth * columns, 2));
            let turned: Vec<f32> =
                (0..columns * depth).map(|i| right[i % depth * columns + i / depth]).collect();
            let half = |x: &[f32]| -> Vec<bf16> { x.iter().map(|x| bf16::from_f32(*x)).collect() };
            let [left_half, right_half, turned_half] = [&left, &right, &turned].map(|x| half(x));
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
                // The numbers are exact in bf16 too.
                let single = Stored::Single(&left);
                for (left, values, turned) in [
                    (single, Stored::Single(&right), false),
                    (single, Stored::Single(&turned), true),
                    (single, Stored::Brain(&right_half), false),
                    (single, Stored::Brain(&turned_half), true),
                    (Stored::Brain(&left_half), Stored::Single(&right), false),
                    (Stored::Brain(&left_half), Stored::Single(&turned), true),
                ] {
                    let mut out = vec![f32::NAN; rows * columns];
                    product(left, Right { values, depth, columns, turned }, bias, &mut out);
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
