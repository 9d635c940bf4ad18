//! The 3×3 convolution of stride 1 by Winograd's F(4×4, 3×3): a quarter of the multiplications, as 36 products of
//! matrices over transformed tiles.
//!
//! The input is transformed once, by channel; then each thread takes some output channels, transforms their weights
//! where they are used, multiplies, and writes their pixels. What is multiplied stays in the second-level cache, so
//! that memory sees input, weights and output once each. Weights are transformed on every call: kept, they would take
//! four times the model's memory, and the transform costs a few percent where this algorithm is used.

use rayon::prelude::*;

use super::direct_loops::WeightLayout;
use super::disjoint::Disjoint;
use super::group_norm_loops::Normal;
use super::instructions::arch;
use super::scratch::Scratch;
use super::stored::Stored;
use super::winograd_loops::{Inverse, LANES, POINTS, Plane, ROWS, Tiles, Weights, spread};
use super::winograd_places::{Places, Sink};
use super::winograd_products::Product;

/// What is convolved: `[batch, channels, height, width]`, or half of height and width where it is doubled first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) batch: usize,
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    /// Whether the input is doubled by repetition first; height and width are those of the result.
    pub(super) doubled: bool,
}

/// Most tiles that are multiplied at a time.
const PANEL: usize = 4 * LANES;
/// Transformed inputs that are held at a time, in floats, but at least of four panels: 16 MiB.
const HELD: usize = 1 << 22;
/// Transformed weights of a thread, in floats: 2 MiB.
const WEIGHTS: usize = 1 << 19;

impl Shape {
    /// Rows of tiles, tiles in a row.
    fn tiles(self) -> (usize, usize) {
        (self.height.div_ceil(4), self.width.div_ceil(4))
    }

    fn count(self) -> usize {
        let (down, across) = self.tiles();
        self.batch * down * across
    }

    /// Whether rows of tiles are whole vectors: then tiles go through registers in the order that suits them.
    fn whole(self) -> bool {
        self.tiles().1.is_multiple_of(LANES) && self.width.is_multiple_of(4)
    }

    fn panel(self) -> usize {
        self.count().next_multiple_of(LANES).min(PANEL)
    }

    /// Whether this is faster than direct multiplication, by cycles per pair of channels as they were measured: products
    /// at the processor's full width, some 14 for the weights, some 25 for a tile's way there and back; the other way
    /// products at three quarters of the width, and a copy of the input.
    pub(super) fn pays(self, outputs: usize) -> bool {
        let tiles = self.count() as f64;
        let padded = (self.count().next_multiple_of(self.panel())) as f64;
        let waste = outputs.next_multiple_of(ROWS) as f64 / outputs as f64;
        let around = 25.0 * tiles * (1.0 / self.channels as f64 + 1.0 / outputs as f64);
        let own = POINTS as f64 * padded / 32.0 * waste + 14.0 + around;
        let pixels = (self.batch * self.height * self.width) as f64;
        own < 9.0 * pixels / 24.0 + pixels / outputs as f64
    }
}

/// Convolves `x` with weights that lie as `layout` says into `out: [batch, outputs, height, width]`, or adds to what is there where `add`
/// is set. Where `normal` is given, one for each channel of each sample, it is applied to `x` first.
pub(super) fn convolve(
    x: &[f32],
    shape: Shape,
    normal: Option<&[Normal]>,
    (weights, layout): (Stored<'_>, WeightLayout),
    bias: &[f32],
    add: bool,
    out: &mut [f32],
) {
    let Shape { channels, .. } = shape;
    let (outputs, panel) = (bias.len(), shape.panel());
    let panels = shape.count().div_ceil(panel);
    let point_size = channels * panel + LANES;
    let panel_size = POINTS * point_size;
    let held = (HELD / panel_size).max(4).min(panels);
    let sixes = outputs.div_ceil(ROWS);
    let six_size = POINTS * ROWS * spread(channels);
    let transform = |six: usize, turned: &mut [f32], out: &mut [f32]| {
        let first = six * ROWS;
        arch().dispatch(Weights { weights, layout, first, outputs, channels, turned, out });
    };
    let turned = || Scratch::new((ROWS + 1) * 9 * spread(channels));
    // Where the input comes in several parts, weights are transformed once for all of them.
    let mut ready = (held < panels).then(|| Scratch::new(sixes * six_size));
    if let Some(ready) = &mut ready {
        let each = ready.par_chunks_mut(six_size).enumerate();
        each.for_each_init(turned, |turned, (six, out)| transform(six, turned, out));
    }
    let ready = ready.as_deref();

    let mut points = Scratch::new(held * panel_size);
    let out = Disjoint::new(out);
    for first in (0..shape.count()).step_by(held * panel) {
        let last = (first + held * panel).min(shape.count());
        // Enough parts for all threads, small enough for their caches.
        let fair = sixes.div_ceil(2 * rayon::current_num_threads());
        let most = if ready.is_some() { 8 } else { WEIGHTS / six_size };
        let chunk = most.min(fair).max(1);
        let part = Part { shape, outputs, chunk, panel, point_size, panel_size, first, last };
        part.transform(x, normal, &Disjoint::new(&mut points));
        let groups = (last - first).div_ceil(panel);
        let jobs = sixes.div_ceil(chunk) * if ready.is_some() { groups } else { 1 };
        let room = || {
            let own = if ready.is_some() { 0 } else { chunk * six_size };
            (Scratch::new(POINTS * part.step()), Scratch::new(own), turned())
        };
        (0..jobs).into_par_iter().for_each_init(room, |(products, own, turned), job| {
            let (chunk_at, groups) = match ready {
                Some(_) => (job / groups, job % groups..job % groups + 1),
                None => (job, 0..groups),
            };
            let start = chunk_at * chunk;
            let count = chunk.min(sixes - start);
            let weights = match ready {
                Some(ready) => &ready[start * six_size..(start + count) * six_size],
                None => {
                    for (i, out) in own.chunks_exact_mut(six_size).take(count).enumerate() {
                        transform(start + i, turned, out);
                    }
                    own
                }
            };
            for group in groups {
                let points = &points[group * panel_size..(group + 1) * panel_size];
                part.multiply(points, (weights, six_size, count), products);
                part.write(group, start * ROWS, count, products, (bias, add), &out);
            }
        });
    }
}

/// The tiles that are worked on at a time, from `first` to `last`.
#[derive(Clone, Copy)]
struct Part {
    shape: Shape,
    outputs: usize,
    /// Sixes of output channels that a job takes.
    chunk: usize,
    panel: usize,
    point_size: usize,
    panel_size: usize,
    first: usize,
    last: usize,
}

impl Part {
    /// Floats of a chunk's products from one point to the next, not a power of two.
    fn step(&self) -> usize {
        self.chunk * ROWS * self.panel + LANES
    }

    /// The input's tiles, channels in parallel.
    #[expect(unsafe_code, reason = "jobs have channels of their own, see `Sink`")]
    fn transform(&self, x: &[f32], normal: Option<&[Normal]>, points: &Disjoint<'_>) {
        let Shape { channels, height, width, doubled, .. } = self.shape;
        let (down, across) = self.shape.tiles();
        let area = if doubled { height / 2 * (width / 2) } else { height * width };
        let pitch = Tiles::pitch(across);
        let room = || (vec![0.0; 6 * pitch], vec![0.0; 6 * pitch]);
        let Self { panel, point_size, panel_size, first, last, .. } = *self;
        let places = Places { point_size, panel_size, panel, first, last };
        (0..channels).into_par_iter().with_min_len(4).for_each_init(room, |(padded, rows), channel| {
            let start = self.first / across;
            for row in start..self.last.div_ceil(across) {
                let plane = row / down * channels + channel;
                let values = &x[plane * area..][..area];
                arch().dispatch(Tiles {
                    plane: Plane { values, height, width, doubled },
                    normal: normal.map(|normal| normal[plane]),
                    follows: row > start && row % down > 0,
                    row: row % down,
                    start: row * across,
                    across,
                    whole: self.shape.whole(),
                    padded,
                    rows,
                    // SAFETY: a channel is one job's, which works on one row at a time; `points` has room for all
                    // channels and is handed out here only.
                    sink: unsafe { Sink::new(points, places, channel) },
                });
            }
        });
    }

    /// A panel's products with some sixes of output channels.
    fn multiply(&self, points: &[f32], (weights, six, sixes): (&[f32], usize, usize), products: &mut [f32]) {
        let (channels, panel) = (self.shape.channels, self.panel);
        for point in 0..POINTS {
            arch().dispatch(Product {
                weights: &weights[point * ROWS * spread(channels)..],
                stride: six,
                sixes,
                points: &points[point * self.point_size..][..channels * panel],
                channels,
                panel,
                out: &mut products[point * self.step()..][..sixes * ROWS * panel],
            });
        }
    }

    /// A panel's pixels of some sixes of output channels, from channel `start` on.
    #[expect(unsafe_code, reason = "jobs have tiles and channels of their own, see `Disjoint`")]
    fn write(
        &self,
        group: usize,
        start: usize,
        sixes: usize,
        products: &[f32],
        (bias, add): (&[f32], bool),
        out: &Disjoint<'_>,
    ) {
        let Shape { height, width, .. } = self.shape;
        let (down, across) = self.shape.tiles();
        let step = self.step();
        let from = self.first + group * self.panel;
        let until = (from + self.panel).min(self.last);
        for channel in start..(start + sixes * ROWS).min(self.outputs) {
            let mut tile = from;
            while tile < until {
                let (row, column) = (tile / across, tile % across);
                let tiles = (across - column).min(until - tile);
                let (x, y) = (4 * column, row % down * 4);
                let plane = (row / down * self.outputs + channel) * height * width;
                let mut rows = std::array::from_fn(|i| {
                    let inside = y + i < height;
                    let len = if inside { (4 * tiles).min(width - x) } else { 0 };
                    let at = if inside { plane + (y + i) * width + x } else { 0 };
                    // SAFETY: tiles do not overlap, and a tile of a channel is one job's.
                    unsafe { out.part(at, len) }
                });
                arch().dispatch(Inverse {
                    points: &products[(channel - start) * self.panel + tile - from..],
                    step,
                    tiles,
                    bias: bias[channel],
                    whole: self.shape.whole(),
                    add,
                    out: &mut rows,
                });
                tile += tiles;
            }
        }
    }
}
