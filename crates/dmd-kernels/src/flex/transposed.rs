//! Rows made columns.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m512, __m512d};

#[cfg(target_arch = "x86_64")]
use pulp::{NullaryFnOnce, Simd, cast, x86::V4};

/// Rows and columns of a square that is turned in registers.
#[cfg(target_arch = "x86_64")]
const SIDE: usize = 16;

/// `out[k · pitch + row] = x[row · stride + k]` for `rows` rows, and zeros up to `pitch`; as many `k` as `out` has room for.
#[inline(always)]
pub(super) fn transposed(x: &[f32], stride: usize, rows: usize, out: &mut [f32], pitch: usize) {
    let length = out.len() / pitch;
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = V4::try_new() {
        // Squares are read whole, also where fewer columns are wanted.
        let reads = |rows: usize| rows * stride + length.next_multiple_of(SIDE) <= x.len() + stride;
        let squares = if reads(rows) { rows } else { rows - SIDE.min(rows) } / SIDE * SIDE;
        let whole = (if reads(squares) { squares } else { 0 }, length);
        simd.vectorize(Squares { simd, x, stride, whole, out, pitch });
        plain(x, stride, (whole.0..rows, 0..length), out, pitch);
        clear(rows, out, pitch);
        return;
    }
    plain(x, stride, (0..rows, 0..length), out, pitch);
    clear(rows, out, pitch);
}

type Span = std::ops::Range<usize>;

#[inline(always)]
fn plain(x: &[f32], stride: usize, (rows, columns): (Span, Span), out: &mut [f32], pitch: usize) {
    for row in rows {
        let values = &x[row * stride..][columns.clone()];
        let to = out[columns.start * pitch..].iter_mut().skip(row).step_by(pitch);
        for (out, value) in to.zip(values) {
            *out = *value;
        }
    }
}

#[inline(always)]
fn clear(rows: usize, out: &mut [f32], pitch: usize) {
    if rows < pitch {
        out.chunks_exact_mut(pitch).for_each(|row| row[rows..].fill(0.0));
    }
}

/// Whole squares of 16×16 floats: pairs of rows, then fours, then the four quarters of vectors.
#[cfg(target_arch = "x86_64")]
struct Squares<'a> {
    simd: V4,
    x: &'a [f32],
    stride: usize,
    /// Rows and columns.
    whole: (usize, usize),
    out: &'a mut [f32],
    pitch: usize,
}

#[cfg(target_arch = "x86_64")]
impl NullaryFnOnce for Squares<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, x, stride, whole: (rows, columns), out, pitch } = self;
        let zero = cast::<_, __m512>([0.0_f32; SIDE]);
        for k in (0..columns).step_by(SIDE) {
            for row in (0..rows).step_by(SIDE) {
                let mut a = [zero; SIDE];
                for (i, a) in a.iter_mut().enumerate() {
                    let (square, _) = V4::as_simd_f32s(&x[(row + i) * stride + k..][..SIDE]);
                    *a = cast(square[0]);
                }
                // Quarter q of `b[4 i + j]` has column 4 q + j of rows 4 i to 4 i + 3.
                let mut b = [zero; SIDE];
                for (a, b) in a.chunks_exact(4).zip(b.chunks_exact_mut(4)) {
                    let [low, high] = [interleaved(simd, a[0], a[1]), interleaved(simd, a[2], a[3])];
                    [b[0], b[1]] = pairs(simd, low[0], high[0]);
                    [b[2], b[3]] = pairs(simd, low[1], high[1]);
                }
                for j in 0..4 {
                    let [l0, h0] = halves(simd, b[j], b[4 + j]);
                    let [l1, h1] = halves(simd, b[8 + j], b[12 + j]);
                    let [[c0, c1], [c2, c3]] = [alternate(simd, l0, l1), alternate(simd, h0, h1)];
                    for (q, column) in
                        [c0, c1, c2, c3].into_iter().enumerate().take_while(|(q, _)| k + 4 * q + j < columns)
                    {
                        let out = &mut out[(k + 4 * q + j) * pitch + row..][..SIDE];
                        V4::as_mut_simd_f32s(out).0[0] = cast(column);
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn interleaved(simd: V4, x: __m512, y: __m512) -> [__m512; 2] {
    [simd.avx512f._mm512_unpacklo_ps(x, y), simd.avx512f._mm512_unpackhi_ps(x, y)]
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn pairs(simd: V4, x: __m512, y: __m512) -> [__m512; 2] {
    let (x, y): (__m512d, __m512d) = (cast(x), cast(y));
    [cast(simd.avx512f._mm512_unpacklo_pd(x, y)), cast(simd.avx512f._mm512_unpackhi_pd(x, y))]
}

/// Quarters 0 and 1 of both, and 2 and 3.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn halves(simd: V4, x: __m512, y: __m512) -> [__m512; 2] {
    [simd.avx512f._mm512_shuffle_f32x4::<0x44>(x, y), simd.avx512f._mm512_shuffle_f32x4::<0xee>(x, y)]
}

/// Quarters 0 and 2 of both, and 1 and 3.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn alternate(simd: V4, x: __m512, y: __m512) -> [__m512; 2] {
    [simd.avx512f._mm512_shuffle_f32x4::<0x88>(x, y), simd.avx512f._mm512_shuffle_f32x4::<0xdd>(x, y)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        for (rows, length, stride, pitch) in
            [(64, 128, 200, 64), (33, 47, 47, 64), (5, 16, 20, 16), (16, 3, 9, 16)]
        {
            let x: Vec<f32> = (0..rows * stride).map(|i| i as f32).collect();
            let mut out = vec![f32::NAN; length * pitch];
            transposed(&x, stride, rows, &mut out, pitch);
            for (k, line) in out.chunks_exact(pitch).enumerate() {
                for (row, value) in line.iter().enumerate() {
                    let right = if row < rows { x[row * stride + k] } else { 0.0 };
                    assert_eq!(*value, right, "row {row}, column {k} of {rows}×{length}");
                }
            }
        }
    }
}
