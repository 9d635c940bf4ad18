//! A prompt becomes a PNG, without any model file: `cargo run --release --example generate -- "a red circle above a blue square"`.

// ANCHOR: book
use dmd::device;
use dmd::infer::{Pipeline, Request, encode_png};
use dmd::weights::write_atomic;

fn main() -> anyhow::Result<()> {
    let prompt = std::env::args().nth(1).unwrap_or_else(|| "a red circle above a blue square".to_owned());
    let device = device::open("flex")?;
    let pipeline = Pipeline::embedded(&device)?;

    let drawn = pipeline.generate(&Request::new([prompt]).with_seeds([7]))?;
    write_atomic("generate.png".as_ref(), &encode_png(&drawn.pictures[0], &[])?)?;
    println!("generate.png in {:.1} ms", drawn.timings.total().as_secs_f64() * 1e3);
    Ok(())
}
// ANCHOR_END: book
