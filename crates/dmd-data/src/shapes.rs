//! The procedural set of captioned pictures: one or two coloured shapes with sizes and places,
//! drawn with anti-aliasing, described in plain English with synonyms. Deterministic by seed.
//!
//! [`read`] finds the objects of a picture from its pixels alone; this is what makes prompt accuracy a number.

mod description;
mod reader;
mod scene;
mod words;

pub use description::{Described, Description, Split, vocabulary};
use dmd_core::Noise;
use image::RgbImage;
pub use reader::read;
pub use scene::{Object, Scene};
pub use words::{Colour, Place, Relation, Shape, Size};

use crate::{Dataset, Error, Example};

/// Height and width of every picture.
pub const SIZE: u32 = 64;
/// The colour around the shapes.
pub const BACKGROUND: [u8; 3] = [245, 243, 238];

/// The procedural shapes as a data set without end: examples of the training split, prompts of the held-out one.
#[derive(Debug, Clone, Copy)]
pub struct Shapes;

impl Dataset for Shapes {
    fn name(&self) -> String {
        "the shapes set".to_owned()
    }

    fn caption(&self, noise: &mut Noise) -> Result<String, Error> {
        Ok(Scene::draw(Split::Train, noise).caption)
    }

    fn draw(&self, noise: &mut Noise) -> Result<Example, Error> {
        let scene = Scene::draw(Split::Train, noise);
        Ok(Example { image: scene.render(), caption: scene.caption })
    }

    fn size(&self) -> Result<u32, Error> {
        Ok(SIZE)
    }

    fn vocabulary(&self) -> Vec<String> {
        vocabulary().into_iter().map(str::to_owned).collect()
    }

    fn prompts(&self, count: usize, noise: &mut Noise) -> Result<Vec<String>, Error> {
        Ok((0..count).map(|_| Scene::draw(Split::HeldOut, noise).caption).collect())
    }

    fn shows(&self, caption: &str, picture: &RgbImage) -> Option<bool> {
        Some(Description::parse(caption)?.fits(&read(picture)))
    }
}
