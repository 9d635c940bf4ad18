//! The products of [`winograd`](super::winograd): transformed weights by transformed tiles, one of the 36 points at a time.

use pulp::{Simd, WithSimd};

use super::instructions::Single;
use super::product_loops::blocks;
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
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { weights, stride, sixes, points, channels, panel, out } = self;
        let wide = spread(channels);
        // Few tiles leave registers for twelve rows.
        let pairs = panel <= 2 * S::F32_LANES && S::F32_LANES == 16;
        let row = |r: usize| &weights[r / ROWS * stride + r % ROWS * wide..][..channels];
        let mut six = 0;
        while six < sixes {
            let step = if pairs && six + 1 < sixes { 2 } else { 1 };
            let out = &mut out[six * ROWS * panel..(six + step) * ROWS * panel];
            match step {
                2 => rows::<S, 12>(simd, row, six * ROWS, (points, panel), out),
                _ => rows::<S, ROWS>(simd, row, six * ROWS, (points, panel), out),
            }
            six += step;
        }
    }
}

/// `R` rows, from row `first` on.
#[inline(always)]
fn rows<'a, S: Simd, const R: usize>(
    simd: S,
    row: impl Fn(usize) -> &'a [f32],
    first: usize,
    (points, panel): (&[f32], usize),
    out: &mut [f32],
) {
    let left = std::array::from_fn(|r| row(first + r));
    let mut rest = out.chunks_exact_mut(panel);
    let out: [&mut [f32]; R] = std::array::from_fn(|_| rest.next().unwrap_or_default());
    blocks((simd, Single), left, (points, panel), out, panel, true);
}
