//! The products of [`winograd`](super::winograd): transformed weights by transformed tiles, one of the 36 points at a time.

use pulp::{Simd, WithSimd};

use super::winograd_loops::{ROWS, spread};

/// `out[row] = Σ weights[row][c] · points[c]` for `sixes` times six rows of one point.
pub(super) struct Product<'a> {
    /// Rows of `spread(channels)`, six together, sixes `stride` floats apart.
    pub(super) weights: &'a [f32],
    pub(super) stride: usize,
    pub(super) sixes: usize,
    /// `[channels, panel]`.
    pub(super) points: &'a [f32],
    pub(super) channels: usize,
    pub(super) panel: usize,
    /// `[6 · sixes, panel]`.
    pub(super) out: &'a mut [f32],
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { weights, stride, sixes, points, channels, panel, out } = self;
        let (wide, vectors) = (spread(channels), panel / S::F32_LANES);
        let mut six = 0;
        while six < sixes {
            let row = |r: usize| &weights[(six + r / ROWS) * stride + r % ROWS * wide..][..channels];
            // Few tiles leave registers for twelve rows.
            let pair = six + 1 < sixes && vectors <= 2 && S::F32_LANES == 16;
            let step = if pair { 2 } else { 1 };
            let out = &mut out[six * ROWS * panel..(six + step) * ROWS * panel];
            if pair {
                let rows: [&[f32]; 12] = std::array::from_fn(row);
                match vectors {
                    1 => product::<S, 12, 1>(s, rows, points, out, panel, 0),
                    _ => product::<S, 12, 2>(s, rows, points, out, panel, 0),
                }
            }
            let rows: [&[f32]; ROWS] = std::array::from_fn(row);
            let mut at = if pair { vectors } else { 0 };
            while at < vectors {
                let most = if S::F32_LANES == 16 { 4 } else { 2 };
                let place = at * S::F32_LANES;
                match (vectors - at).min(most) {
                    1 => product::<S, ROWS, 1>(s, rows, points, out, panel, place),
                    2 => product::<S, ROWS, 2>(s, rows, points, out, panel, place),
                    3 => product::<S, ROWS, 3>(s, rows, points, out, panel, place),
                    _ => product::<S, ROWS, 4>(s, rows, points, out, panel, place),
                }
                at += (vectors - at).min(most);
            }
            six += step;
        }
    }
}

/// `R` rows of `V` vectors of tiles, from tile `at` on.
#[inline(always)]
fn product<S: Simd, const R: usize, const V: usize>(
    s: S,
    weights: [&[f32]; R],
    points: &[f32],
    out: &mut [f32],
    panel: usize,
    at: usize,
) {
    let len = V * S::F32_LANES;
    let mut sums = [[s.splat_f32s(0.0); V]; R];
    for (c, points) in points.chunks_exact(panel).take(weights[0].len()).enumerate() {
        let (vectors, _) = S::as_simd_f32s(&points[at..at + len]);
        let vectors: [S::f32s; V] = std::array::from_fn(|v| vectors[v]);
        for (sums, weights) in sums.iter_mut().zip(weights) {
            let weight = s.splat_f32s(weights[c]);
            for (sum, vector) in sums.iter_mut().zip(vectors) {
                *sum = s.mul_add_e_f32s(vector, weight, *sum);
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        let (out, _) = S::as_mut_simd_f32s(&mut out[row * panel + at..row * panel + at + len]);
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = sum;
        }
    }
}
