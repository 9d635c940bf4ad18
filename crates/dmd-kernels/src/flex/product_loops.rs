//! The inner loop of products: sums of some rows and vectors of columns in registers.

use pulp::{NullaryFnOnce, Simd};

use super::instructions::Arithmetic;

/// Adds the products of `R` rows of the left matrix with `width` columns of the right one, whose rows lie `pitch` floats apart, to the
/// sums in `rows`, or writes them there where the sums are `fresh`. Vectors reach beyond `width` where it is not a multiple of theirs.
///
/// `R` rows by four vectors are to fit into the registers of AVX-512, by two vectors into those of AVX2: 6, or 12 of few columns.
#[inline(always)]
pub(super) fn blocks<S: Simd, A: Arithmetic<S>, const R: usize>(
    (simd, by): (S, A),
    left: [&[f32]; R],
    (right, pitch): (&[f32], usize),
    mut rows: [&mut [f32]; R],
    width: usize,
    fresh: bool,
) {
    let lanes = S::F32_LANES;
    let most = if lanes == 16 && R <= 6 { 4 } else { 2 };
    let mut at = 0;
    while at < width {
        let count = (width - at).div_ceil(lanes).min(most);
        let rows = &mut rows;
        // Each a function of its own, so that the loop does not share its registers with its surroundings.
        match count {
            1 => by.vectorize(simd, Block::<S, A, R, 1> { simd, by, left, right, pitch, rows, at, fresh }),
            2 => by.vectorize(simd, Block::<S, A, R, 2> { simd, by, left, right, pitch, rows, at, fresh }),
            3 => by.vectorize(simd, Block::<S, A, R, 3> { simd, by, left, right, pitch, rows, at, fresh }),
            _ => by.vectorize(simd, Block::<S, A, R, 4> { simd, by, left, right, pitch, rows, at, fresh }),
        }
        at += count * lanes;
    }
}

/// `R` rows by `V` vectors of columns, from column `at` on.
struct Block<'a, 'b, S, A, const R: usize, const V: usize> {
    simd: S,
    by: A,
    left: [&'a [f32]; R],
    right: &'a [f32],
    pitch: usize,
    rows: &'a mut [&'b mut [f32]; R],
    at: usize,
    fresh: bool,
}

#[inline(always)]
fn load<S: Simd, const V: usize>(simd: S, x: &[f32]) -> [S::f32s; V] {
    let (vectors, _) = S::as_simd_f32s(x);
    let mut loaded = [simd.splat_f32s(0.0); V];
    for (to, from) in loaded.iter_mut().zip(vectors) {
        *to = *from;
    }
    loaded
}

impl<S: Simd, A: Arithmetic<S>, const R: usize, const V: usize> NullaryFnOnce for Block<'_, '_, S, A, R, V> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, by, left, right, pitch, rows, at, fresh } = self;
        let len = V * S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        if !fresh {
            for (sums, row) in sums.iter_mut().zip(&*rows) {
                *sums = load(simd, &row[at..at + len]);
            }
        }
        let depth = left[0].len();
        // The compiler sees equal lengths, and leaves out the checks.
        let mut equal = left;
        for left in &mut equal {
            *left = &left[..depth];
        }
        for k in 0..depth {
            let vectors: [S::f32s; V] = load(simd, &right[k * pitch + at..k * pitch + at + len]);
            for (sums, left) in sums.iter_mut().zip(equal) {
                let value = simd.splat_f32s(left[k]);
                for (sum, vector) in sums.iter_mut().zip(vectors) {
                    *sum = by.add(simd, vector, value, *sum);
                }
            }
        }
        for (row, sums) in rows.iter_mut().zip(sums) {
            let (vectors, _) = S::as_mut_simd_f32s(&mut row[at..at + len]);
            for (to, sum) in vectors.iter_mut().zip(sums) {
                *to = sum;
            }
        }
    }
}
