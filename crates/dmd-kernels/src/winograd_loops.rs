//! The loops of [`winograd`](crate::winograd): transforms of tiles and weights, and the products between them.
//!
//! F(4×4, 3×3) with the points 0, ±1/√2, ±√2 and ∞ (Toom and Cook's construction, transposed): these keep the
//! transforms' constants between 1/6 and 2.5, and the error within about twice a direct sum's.

use pulp::{Simd, WithSimd};

use crate::conv_loops::WeightLayout;
use crate::disjoint::Disjoint;

/// Places of a transformed tile, 6×6.
pub(crate) const POINTS: usize = 36;
/// Output channels that a product computes at a time.
pub(crate) const ROWS: usize = 6;
/// Floats of the widest vectors; tiles come in multiples of it.
pub(crate) const LANES: usize = 16;

const A2: f32 = 0.5;
const B2: f32 = 2.0;
const A: f32 = std::f32::consts::FRAC_1_SQRT_2;
const B: f32 = std::f32::consts::SQRT_2;

/// Channels rounded up to an odd number of vectors: rows a power of two apart would share a few sets of the cache.
pub(crate) fn spread(channels: usize) -> usize {
    LANES * (channels.div_ceil(LANES) | 1)
}

#[inline(always)]
fn load<S: Simd>(_: S, x: &[f32]) -> S::f32s {
    S::as_simd_f32s(&x[..S::F32_LANES]).0[0]
}

#[inline(always)]
fn store<S: Simd>(_: S, x: &mut [f32], v: S::f32s) {
    S::as_mut_simd_f32s(&mut x[..S::F32_LANES]).0[0] = v;
}

/// Six inputs of a row or column to six points.
#[inline(always)]
fn input<S: Simd>(s: S, d: [S::f32s; 6]) -> [S::f32s; 6] {
    let c = |v| s.splat_f32s(v);
    let fma = |a, b, c| s.mul_add_f32s(a, b, c);
    let (e1, o1) = (fma(c(-B2), d[2], d[4]), s.mul_f32s(c(A), fma(c(-B2), d[1], d[3])));
    let (e2, o2) = (fma(c(-A2), d[2], d[4]), s.mul_f32s(c(B), fma(c(-A2), d[1], d[3])));
    [
        s.add_f32s(fma(c(-A2 - B2), d[2], d[0]), d[4]),
        s.add_f32s(e1, o1),
        s.sub_f32s(e1, o1),
        s.add_f32s(e2, o2),
        s.sub_f32s(e2, o2),
        s.add_f32s(fma(c(-A2 - B2), d[3], d[1]), d[5]),
    ]
}

/// Six points of a row or column to four outputs.
#[inline(always)]
fn output<S: Simd>(s: S, m: [S::f32s; 6]) -> [S::f32s; 4] {
    let c = |v| s.splat_f32s(v);
    let fma = |a, b, c| s.mul_add_f32s(a, b, c);
    let (s1, t1) = (s.add_f32s(m[1], m[2]), s.mul_f32s(c(A), s.sub_f32s(m[1], m[2])));
    let (s2, t2) = (s.add_f32s(m[3], m[4]), s.mul_f32s(c(B), s.sub_f32s(m[3], m[4])));
    [
        s.add_f32s(m[0], s.add_f32s(s1, s2)),
        s.add_f32s(t1, t2),
        fma(c(A2), s1, s.mul_f32s(c(B2), s2)),
        fma(c(A2), t1, fma(c(B2), t2, m[5])),
    ]
}

/// Three weights of a row or column to six points.
#[inline(always)]
fn weight<S: Simd>(s: S, g: [S::f32s; 3]) -> [S::f32s; 6] {
    // 2a²(a² − b²) = −3/2, 2b²(b² − a²) = 6, a²b² = 1.
    let c = |v| s.splat_f32s(v);
    let fma = |a, b, c| s.mul_add_f32s(a, b, c);
    let (e1, o1) = (s.mul_f32s(c(-1.0 / 1.5), fma(c(A2), g[2], g[0])), s.mul_f32s(c(-A / 1.5), g[1]));
    let (e2, o2) = (s.mul_f32s(c(1.0 / 6.0), fma(c(B2), g[2], g[0])), s.mul_f32s(c(B / 6.0), g[1]));
    [g[0], s.add_f32s(e1, o1), s.sub_f32s(e1, o1), s.add_f32s(e2, o2), s.sub_f32s(e2, o2), g[2]]
}

/// The weights of six output channels, from `first` on, to `[POINTS, ROWS, spread(channels)]`.
pub(crate) struct Weights<'a> {
    pub(crate) weights: &'a [f32],
    pub(crate) layout: WeightLayout,
    pub(crate) first: usize,
    pub(crate) outputs: usize,
    pub(crate) channels: usize,
    /// Room for `[ROWS, 9, spread(channels)]`.
    pub(crate) turned: &'a mut [f32],
    pub(crate) out: &'a mut [f32],
}

impl WithSimd for Weights<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { weights, layout, first, outputs, channels, turned, out } = self;
        let wide = spread(channels);
        let there = ROWS.min(outputs - first);
        for c in 0..channels {
            for row in 0..there {
                let at = (first + row) * layout.output + c * layout.input;
                let nine = &weights[at..at + 9];
                let to = &mut turned[row * 9 * wide + c..][..8 * wide + 1];
                for (n, value) in nine.iter().enumerate() {
                    to[n * wide] = *value;
                }
            }
        }
        let place = |n: usize| if layout.reversed { 8 - n } else { n };
        for row in 0..there {
            let nine: [&[f32]; 9] = std::array::from_fn(|n| &turned[(row * 9 + place(n)) * wide..][..wide]);
            let mut c = 0;
            while c < wide {
                let mut half = [[s.splat_f32s(0.0); 3]; 6];
                for x in 0..3 {
                    let column = [0, 3, 6].map(|y| load(s, &nine[y + x][c..]));
                    for (half, u) in half.iter_mut().zip(weight(s, column)) {
                        half[x] = u;
                    }
                }
                for (y, half) in half.into_iter().enumerate() {
                    for (x, u) in weight(s, half).into_iter().enumerate() {
                        store(s, &mut out[((y * 6 + x) * ROWS + row) * wide + c..], u);
                    }
                }
                c += S::F32_LANES;
            }
        }
        for row in there..ROWS {
            for point in 0..POINTS {
                out[(point * ROWS + row) * wide..][..wide].fill(0.0);
            }
        }
    }
}

/// Where a channel's transformed tiles go: panels of `[POINTS, channels, panel]`, each point followed by a gap.
#[derive(Clone, Copy)]
pub(crate) struct Sink<'a> {
    pub(crate) points: &'a Disjoint<'a>,
    pub(crate) channel: usize,
    /// Floats from one point to the next, and from one panel to the next.
    pub(crate) point_size: usize,
    pub(crate) panel_size: usize,
    /// Tiles of a panel.
    pub(crate) panel: usize,
    /// The tiles that are there at the moment.
    pub(crate) first: usize,
    pub(crate) last: usize,
}

impl Sink<'_> {
    /// Where a tile's point is: `len` tiles from `tile` on lie beside each other, in one panel.
    #[expect(unsafe_code, reason = "threads have channels of their own, see `Disjoint`")]
    #[expect(clippy::mut_from_ref, reason = "the places of a channel are its thread's alone")]
    #[inline(always)]
    fn at(&self, tile: usize, point: usize, len: usize) -> &mut [f32] {
        let tile = tile - self.first;
        let panel = tile / self.panel * self.panel_size;
        let at = panel + point * self.point_size + self.channel * self.panel + tile % self.panel;
        // SAFETY: a channel belongs to one thread, and places of different channels differ.
        unsafe { self.points.part(at, len) }
    }
}

/// A channel's plane, and how it is read.
#[derive(Clone, Copy)]
pub(crate) struct Plane<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Whether each value stands for 2×2: `height` and `width` are those of the doubled picture.
    pub(crate) doubled: bool,
}

/// Transforms a row of tiles of a channel.
pub(crate) struct Tiles<'a> {
    pub(crate) plane: Plane<'a>,
    /// Which row, its first tile, and how many there are.
    pub(crate) row: usize,
    pub(crate) start: usize,
    pub(crate) across: usize,
    /// Whether they are whole vectors, whose order the deinterleaving may change and the way back restores.
    pub(crate) whole: bool,
    /// Room for six rows with zeros around, `pitch` floats each, twice; zero but for what was written here.
    pub(crate) padded: &'a mut [f32],
    pub(crate) rows: &'a mut [f32],
    pub(crate) sink: Sink<'a>,
}

impl Tiles<'_> {
    /// Floats of a padded row.
    pub(crate) fn pitch(across: usize) -> usize {
        (4 * across + 2).next_multiple_of(LANES) + LANES
    }
}

impl WithSimd for Tiles<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { plane, row, start, across, whole, padded, rows, sink } = self;
        let (pitch, width) = (Self::pitch(across), plane.width);
        for (i, to) in padded.chunks_exact_mut(pitch).enumerate() {
            let to = &mut to[1..=width];
            let y = (4 * row + i).wrapping_sub(1);
            if y >= plane.height {
                to.fill(0.0);
            } else if plane.doubled {
                let from = &plane.values[y / 2 * (width / 2)..][..width / 2];
                for (two, value) in to.chunks_exact_mut(2).zip(from) {
                    two.fill(*value);
                }
            } else {
                to.copy_from_slice(&plane.values[y * width..][..width]);
            }
        }
        let mut at = 0;
        while at < pitch {
            let d = std::array::from_fn(|i| load(s, &padded[i * pitch + at..]));
            for (i, v) in input(s, d).into_iter().enumerate() {
                store(s, &mut rows[i * pitch + at..], v);
            }
            at += S::F32_LANES;
        }
        let inside = |tile: usize| tile >= sink.first && tile < sink.last;
        for (i, row) in rows.chunks_exact(pitch).enumerate() {
            if whole {
                let lanes = S::F32_LANES;
                for t in (0..across).step_by(lanes).filter(|t| inside(start + t)) {
                    let four = |at: usize| std::array::from_fn(|i| load(s, &row[at + i * lanes..]));
                    let [d0, d1, d2, d3]: [S::f32s; 4] = s.deinterleave_shfl_f32s(four(4 * t));
                    let [d4, d5, ..]: [S::f32s; 4] = s.deinterleave_shfl_f32s(four(4 * t + 4));
                    for (j, v) in input(s, [d0, d1, d2, d3, d4, d5]).into_iter().enumerate() {
                        store(s, sink.at(start + t, i * 6 + j, lanes), v);
                    }
                }
                continue;
            }
            for t in (0..across).filter(|t| inside(start + t)) {
                let d = &row[4 * t..4 * t + 6];
                let (e1, o1) = (d[4] - B2 * d[2], A * (d[3] - B2 * d[1]));
                let (e2, o2) = (d[4] - A2 * d[2], B * (d[3] - A2 * d[1]));
                let (first, last) = (d[0] - (A2 + B2) * d[2] + d[4], d[1] - (A2 + B2) * d[3] + d[5]);
                for (j, v) in [first, e1 + o1, e1 - o1, e2 + o2, e2 - o2, last].into_iter().enumerate() {
                    sink.at(start + t, i * 6 + j, 1)[0] = v;
                }
            }
        }
    }
}

/// `out[row] = Σ weights[row][c] · points[c]` for `sixes` times six rows of one point.
pub(crate) struct Product<'a> {
    /// Rows of `spread(channels)`, six together, sixes `stride` floats apart.
    pub(crate) weights: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) sixes: usize,
    /// `[channels, panel]`.
    pub(crate) points: &'a [f32],
    pub(crate) channels: usize,
    pub(crate) panel: usize,
    /// `[6 · sixes, panel]`.
    pub(crate) out: &'a mut [f32],
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
                *sum = s.mul_add_f32s(vector, weight, *sum);
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

/// Some tiles of a row of tiles, of one output channel, back to pixels.
pub(crate) struct Inverse<'a, 'b> {
    /// The first tile's first point; points `step` floats apart.
    pub(crate) points: &'a [f32],
    pub(crate) step: usize,
    pub(crate) tiles: usize,
    pub(crate) bias: f32,
    /// Whether the tiles are whole vectors in [`Tiles`]' order.
    pub(crate) whole: bool,
    /// The four rows of pixels, empty beyond the picture's end.
    pub(crate) out: &'b mut [&'a mut [f32]; 4],
}

impl WithSimd for Inverse<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { points, step, tiles, bias, whole, out } = self;
        let (lanes, bias) = (S::F32_LANES, s.splat_f32s(bias));
        for t in (0..tiles).step_by(lanes) {
            let mut half = [[s.splat_f32s(0.0); 6]; 4];
            for j in 0..6 {
                let column = std::array::from_fn(|i| load(s, &points[(i * 6 + j) * step + t..]));
                for (half, y) in half.iter_mut().zip(output(s, column)) {
                    half[j] = y;
                }
            }
            for (out, half) in out.iter_mut().zip(half) {
                if out.is_empty() {
                    continue;
                }
                let four = output(s, half).map(|y| s.add_f32s(y, bias));
                let out = &mut out[4 * t..];
                if whole {
                    for (q, y) in s.interleave_shfl_f32s(four).into_iter().enumerate() {
                        store(s, &mut out[q * lanes..], y);
                    }
                    continue;
                }
                let mut values = [[0.0_f32; LANES]; 4];
                for (values, y) in values.iter_mut().zip(four) {
                    store(s, values, y);
                }
                for (i, out) in out.iter_mut().take(4 * lanes).enumerate() {
                    *out = values[i % 4][i / 4];
                }
            }
        }
    }
}
