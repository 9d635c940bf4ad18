//! Processes a large picture in overlapping tiles and blends them linearly where they overlap, as diffusers'
//! `enable_tiling` does.

use burn::tensor::{Tensor, TensorData};

/// The fraction of a tile that its neighbour also covers (diffusers' `tile_overlap_factor`).
const OVERLAP: f64 = 0.25;

/// The side length of square tiles: in latents for one of the two fields, in pixels for the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tiles {
    /// Side length of an input tile.
    pub(crate) input: usize,
    /// Side length of an output tile.
    pub(crate) output: usize,
}

impl Tiles {
    /// Applies `network` to every tile of `x` and joins the results.
    pub(crate) fn apply(self, x: Tensor<4>, network: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        let [.., height, width] = x.dims();
        if height <= self.input && width <= self.input {
            return network(x);
        }
        let stride = ((self.input as f64 * (1.0 - OVERLAP)) as usize).max(1);
        let blend = (self.output as f64 * OVERLAP) as usize;
        let kept = self.output - blend;
        let mut rows: Vec<Tensor<4>> = Vec::new();
        let mut above: Vec<Tensor<4>> = Vec::new();
        for top in (0..height).step_by(stride) {
            let mut row: Vec<Tensor<4>> = Vec::new();
            for left in (0..width).step_by(stride) {
                let tile = x.clone().narrow(2, top, self.input.min(height - top)).narrow(
                    3,
                    left,
                    self.input.min(width - left),
                );
                row.push(network(tile));
            }
            let mut joined = Vec::with_capacity(row.len());
            for i in 0..row.len() {
                if let Some(upper) = above.get(i) {
                    row[i] = blended(upper.clone(), row[i].clone(), 2, blend);
                }
                if i > 0 {
                    row[i] = blended(row[i - 1].clone(), row[i].clone(), 3, blend);
                }
                joined.push(cropped(cropped(row[i].clone(), 2, kept), 3, kept));
            }
            rows.push(Tensor::cat(joined, 3));
            above = row;
        }
        Tensor::cat(rows, 2)
    }
}

fn cropped(x: Tensor<4>, axis: usize, length: usize) -> Tensor<4> {
    let length = length.min(x.dims()[axis]);
    x.narrow(axis, 0, length)
}

/// Returns `next`, whose first `extent` rows or columns are a linear transition from the last rows or columns of
/// `previous`.
fn blended(previous: Tensor<4>, next: Tensor<4>, axis: usize, extent: usize) -> Tensor<4> {
    let (before, length) = (previous.dims()[axis], next.dims()[axis]);
    let extent = extent.min(before).min(length);
    if extent == 0 {
        return next;
    }
    let shares: Vec<f32> = (0..extent).map(|i| i as f32 / extent as f32).collect();
    let mut shape = [1; 4];
    shape[axis] = extent;
    let share = Tensor::<4>::from_data(TensorData::new(shares, shape), &next.device());
    let old = previous.narrow(axis, before - extent, extent);
    let new = next.clone().narrow(axis, 0, extent);
    let mixed = old.clone() + (new - old) * share;
    if extent == length {
        return mixed;
    }
    Tensor::cat(vec![mixed, next.narrow(axis, extent, length - extent)], axis)
}
