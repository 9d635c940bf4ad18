//! A data set of your own is one `impl Dataset`. This one paints pictures of gradients when they are asked for. Everything
//! that takes a data set (a teacher's stages, pairs, the critic's real pictures) takes this one, too.
//!
//! `cargo run --example own_dataset`

use anyhow::ensure;
use dmd::core::Noise;
use dmd::data::{Dataset, Error, Example, grid, save};
use image::{Rgb, RgbImage};

// ANCHOR: data
/// From dark to light, towards one of two sides.
#[derive(Debug)]
struct Gradients {
    size: u32,
}

/// Captions, and from which share of the light each picture is made.
const SIDES: [&str; 2] = ["light on the right", "light at the bottom"];

impl Gradients {
    fn draw_side(&self, side: usize) -> RgbImage {
        let level = |place: u32| (place * 255 / (self.size - 1)) as u8;
        RgbImage::from_fn(self.size, self.size, |x, y| Rgb([level(if side == 0 { x } else { y }); 3]))
    }
}
// ANCHOR_END: data

// ANCHOR: dataset
impl Dataset for Gradients {
    fn name(&self) -> String {
        "gradients".to_owned()
    }

    fn caption(&self, noise: &mut Noise) -> Result<String, Error> {
        Ok(SIDES[noise.below(2)].to_owned())
    }

    fn draw(&self, noise: &mut Noise) -> Result<Example, Error> {
        let side = noise.below(2);
        Ok(Example { image: self.draw_side(side), caption: SIDES[side].to_owned() })
    }

    fn size(&self) -> Result<u32, Error> {
        Ok(self.size)
    }

    fn vocabulary(&self) -> Vec<String> {
        ["at", "bottom", "light", "on", "right", "the"].map(str::to_owned).to_vec()
    }

    /// Optional: with it, training reports how many of its pictures are right.
    fn shows(&self, caption: &str, picture: &RgbImage) -> Option<bool> {
        let side = SIDES.iter().position(|known| *known == caption)?;
        let end = self.size - 1;
        let (right, bottom) = (picture.get_pixel(end, 0).0[0], picture.get_pixel(0, end).0[0]);
        Some((right > bottom) == (side == 0))
    }
}
// ANCHOR_END: dataset

fn main() -> anyhow::Result<()> {
    // ANCHOR: use
    let (dataset, mut noise) = (Gradients { size: 32 }, Noise::from_seed(1));
    let examples = (0..8).map(|_| dataset.draw(&mut noise)).collect::<Result<Vec<_>, _>>()?;
    let (pictures, captions): (Vec<_>, Vec<_>) =
        examples.into_iter().map(|example| (example.image, example.caption)).unzip();
    let right = dataset.accuracy(&captions, &pictures);
    // ANCHOR_END: use
    println!("{} draws {} pictures; {right:?} of them are right", dataset.name(), pictures.len());
    println!("its words: {}", dataset.vocabulary().join(", "));
    save(&grid(&pictures, 4), "own_dataset.png".as_ref())?;
    println!("wrote own_dataset.png");
    ensure!(right == Some(1.0), "the data set refuses its own pictures");
    Ok(())
}
