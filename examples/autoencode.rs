//! Pictures through the autoencoder and back: 64×64×3 values become 8×8×4, and pictures again.
//!
//! `cargo run --release --example autoencode` uses the embedded model's autoencoder. It prints how near each picture comes to
//! itself (PSNR in decibels; at 30 and more an eye sees no difference), and writes `autoencode.png`: pictures above,
//! what came back below.

use anyhow::{bail, ensure};
use dmd::core::Noise;
use dmd::data::{Dataset, Shapes, grid, save};
use dmd::device;
use dmd::infer::Pipeline;
use dmd::model::AnyModel;
use dmd::model::pixels::{from_rgb8, to_rgb8};
use image::RgbImage;

/// Peak signal-to-noise ratio of two pictures, `10 · log10(255² / mean squared difference)`, in decibels.
fn psnr(a: &RgbImage, b: &RgbImage) -> f64 {
    let squares = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
    10.0 * (255.0_f64.powi(2) * a.as_raw().len() as f64 / squares.sum::<f64>()).log10()
}

fn main() -> anyhow::Result<()> {
    let device = device::open("flex")?;
    let pipeline = Pipeline::embedded(&device)?;
    let AnyModel::StableDiffusion(model) = pipeline.model() else {
        bail!("the embedded model is of another family")
    };
    let codec = &model.codec;

    let mut noise = Noise::from_seed(4);
    let examples = (0..6).map(|_| Shapes.draw(&mut noise)).collect::<Result<Vec<_>, _>>()?;
    let pictures: Vec<RgbImage> = examples.iter().map(|example| example.image.clone()).collect();
    let x = from_rgb8(&pictures, &device); // [6, 3, 64, 64] in [−1, 1]
    let latents = codec.encode_mode(x.clone()); // [6, 4, 8, 8]
    let back = to_rgb8(codec.decode(latents.clone()));
    let values = |dims: [usize; 4]| dims[1..].iter().product::<usize>();
    println!(
        "{:?} → {:?}: 1 value of {}",
        x.dims(),
        latents.dims(),
        values(x.dims()) / values(latents.dims())
    );

    for ((example, picture), back) in examples.iter().zip(&pictures).zip(&back) {
        let decibels = psnr(picture, back);
        println!("{decibels:5.1} dB  {}", example.caption);
        ensure!(decibels > 20.0, "a picture does not come back");
    }
    save(&grid(&[pictures, back].concat(), 6), "autoencode.png".as_ref())?;
    println!("wrote autoencode.png");
    Ok(())
}
