//! The same code on every device: one prompt, one seed, each backend of this build, and how far the
//! pictures are apart.
//!
//! `cargo run --release --example swap_backend` (CPU), or with `--features wgpu` on the device that wgpu finds as well.

use std::path::Path;

use anyhow::ensure;
use dmd::device;
use dmd::infer::{Pipeline, Request};

fn main() -> anyhow::Result<()> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/shapes");
    let request = Request::new(["a red circle above a blue square"]).with_seeds([7]);
    let mut first: Option<Vec<u8>> = None;
    for name in device::available() {
        let device = device::open(name)?;
        let pipeline = Pipeline::builder(&model, &device).one_step_only().build()?;
        pipeline.generate(&request)?; // compiles and tunes kernels where there are any
        let drawn = pipeline.generate(&request)?;
        let pixels = drawn.pictures[0].as_raw().clone();
        let apart = match &first {
            Some(first) => first.iter().zip(&pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0),
            None => 0,
        };
        println!(
            "{name:8} {:8.1} ms, largest difference {apart} of 255",
            drawn.timings.total().as_secs_f64() * 1e3
        );
        // f32 sums in another order move a pixel by a level or two, never more.
        ensure!(apart <= 3, "{name} draws another picture");
        first.get_or_insert(pixels);
    }
    Ok(())
}
