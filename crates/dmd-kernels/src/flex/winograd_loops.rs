//! The loops of [`winograd`](super::winograd): tiles and weights to points, and points back to pixels.

use pulp::{Simd, WithSimd};

use super::direct_loops::WeightLayout;
use super::group_norm_loops::Normal;
use super::stored::Stored;
use super::transposed::transposed;
use super::winograd_places::Sink;
use super::winograd_transforms::{A, A2, B, B2, input, output, weight};

/// Places of a transformed tile, 6×6.
pub(super) const POINTS: usize = 36;
/// Output channels that a product computes at a time.
pub(super) const ROWS: usize = 6;
/// Floats of the widest vectors; tiles come in multiples of it.
pub(super) const LANES: usize = 16;

/// Channels rounded up to an odd number of vectors: rows a power of two apart would share a few sets of the cache.
pub(super) fn spread(channels: usize) -> usize {
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

/// The weights of six output channels, from `first` on, to `[POINTS, ROWS, spread(channels)]`.
pub(super) struct Weights<'a> {
    pub(super) weights: Stored<'a>,
    pub(super) layout: WeightLayout,
    pub(super) first: usize,
    pub(super) outputs: usize,
    pub(super) channels: usize,
    /// Room for `[ROWS, 9, spread(channels)]`, and for one row as it is read.
    pub(super) turned: &'a mut [f32],
    pub(super) out: &'a mut [f32],
}

impl WithSimd for Weights<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { weights, layout, first, outputs, channels, turned, out } = self;
        let wide = spread(channels);
        let there = ROWS.min(outputs - first);
        let (turned, read) = turned.split_at_mut(ROWS * 9 * wide);
        for (row, turned) in turned.chunks_exact_mut(9 * wide).take(there).enumerate() {
            let start = (first + row) * layout.output;
            let row = weights.part(start..start + (channels - 1) * layout.input + 9);
            // In half precision these are weights as files have them, a row's nines one after another.
            transposed(row.read_in(read), layout.input, channels, turned, wide);
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

/// A channel's plane, and how it is read.
#[derive(Clone, Copy)]
pub(super) struct Plane<'a> {
    pub(super) values: &'a [f32],
    pub(super) height: usize,
    pub(super) width: usize,
    /// Whether each value stands for 2×2: `height` and `width` are those of the doubled picture.
    pub(super) doubled: bool,
}

/// Transforms a row of tiles of a channel.
pub(super) struct Tiles<'a> {
    pub(super) plane: Plane<'a>,
    /// What is made of the plane's values first.
    pub(super) normal: Option<Normal>,
    /// Whether the row before of the same plane was the last to be transformed with this room: then two rows of values are there.
    pub(super) follows: bool,
    /// Which row, its first tile, and how many there are.
    pub(super) row: usize,
    pub(super) start: usize,
    pub(super) across: usize,
    /// Whether they are whole vectors, whose order the deinterleaving may change and the way back restores.
    pub(super) whole: bool,
    /// Room for six rows with zeros around, `pitch` floats each, twice; zero but for what was written here.
    pub(super) padded: &'a mut [f32],
    pub(super) rows: &'a mut [f32],
    pub(super) sink: Sink<'a>,
}

impl Tiles<'_> {
    /// Floats of a padded row.
    pub(super) fn pitch(across: usize) -> usize {
        (4 * across + 2).next_multiple_of(LANES) + LANES
    }
}

impl WithSimd for Tiles<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { plane, normal, follows, row, start, across, whole, padded, rows, mut sink } = self;
        let (pitch, width) = (Self::pitch(across), plane.width);
        let known = if follows { 2 } else { 0 };
        padded.copy_within((6 - known) * pitch..6 * pitch, 0);
        for (i, to) in padded.chunks_exact_mut(pitch).enumerate().skip(known) {
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
                if let Some(normal) = normal {
                    normal.apply(to);
                }
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
        for (i, row) in rows.chunks_exact(pitch).enumerate() {
            if whole {
                let lanes = S::F32_LANES;
                for t in (0..across).step_by(lanes) {
                    if !sink.holds(start + t) {
                        continue;
                    }
                    let four = |at: usize| std::array::from_fn(|i| load(s, &row[at + i * lanes..]));
                    let [d0, d1, d2, d3]: [S::f32s; 4] = s.deinterleave_shfl_f32s(four(4 * t));
                    let [d4, d5, ..]: [S::f32s; 4] = s.deinterleave_shfl_f32s(four(4 * t + 4));
                    for (j, v) in input(s, [d0, d1, d2, d3, d4, d5]).into_iter().enumerate() {
                        store(s, sink.at(start + t, i * 6 + j, lanes), v);
                    }
                }
                continue;
            }
            for t in 0..across {
                if !sink.holds(start + t) {
                    continue;
                }
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

/// Some tiles of a row of tiles, of one output channel, back to pixels.
pub(super) struct Inverse<'a, 'b> {
    /// The first tile's first point; points `step` floats apart.
    pub(super) points: &'a [f32],
    pub(super) step: usize,
    pub(super) tiles: usize,
    pub(super) bias: f32,
    /// Whether the tiles are whole vectors in [`Tiles`]' order.
    pub(super) whole: bool,
    /// Whether the pixels are added to what is there.
    pub(super) add: bool,
    /// The four rows of pixels, empty beyond the picture's end.
    pub(super) out: &'b mut [&'a mut [f32]; 4],
}

impl WithSimd for Inverse<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { points, step, tiles, bias, whole, add, out } = self;
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
                        let out = &mut out[q * lanes..];
                        let y = if add { s.add_f32s(load(s, out), y) } else { y };
                        store(s, out, y);
                    }
                    continue;
                }
                let mut values = [[0.0_f32; LANES]; 4];
                for (values, y) in values.iter_mut().zip(four) {
                    store(s, values, y);
                }
                for (i, out) in out.iter_mut().take(4 * lanes).enumerate() {
                    let start = if add { *out } else { 0.0 };
                    *out = start + values[i % 4][i / 4];
                }
            }
        }
    }
}
