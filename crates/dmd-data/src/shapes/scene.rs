use dmd_core::Noise;
use image::{Rgb, RgbImage};

use super::description::pick;
use super::words::{PLACES, SIZES};
use super::{BACKGROUND, Colour, Described, Description, Relation, SIZE, Shape, Split};

/// An object as drawn; lengths in pixels, origin at the top left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Object {
    /// Outline.
    pub shape: Shape,
    /// Colour.
    pub colour: Colour,
    /// Centre, x to the right.
    pub x: f64,
    /// Centre, y downwards.
    pub y: f64,
    /// Radius (see [`Shape`]).
    pub radius: f64,
}

/// A captioned picture's plan: what is said, and what is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// What the caption says.
    pub description: Description,
    /// The caption.
    pub caption: String,
    /// What is drawn.
    pub objects: Vec<Object>,
}

impl Described {
    fn place(&self, (x, y): (f64, f64), jitter: (f64, f64), noise: &mut Noise) -> Object {
        let (low, high) = self.size.unwrap_or_else(|| pick(&SIZES, noise)).radius();
        let at = noise.uniform(-1.0..=1.0, 2);
        Object {
            shape: self.shape,
            colour: self.colour,
            x: x + jitter.0 * at[0],
            y: y + jitter.1 * at[1],
            radius: noise.uniform(low..=high, 1)[0],
        }
    }
}

impl Object {
    /// The share of a pixel that the object covers, from 4×4 samples; `(left, top)` is the pixel's
    /// corner.
    pub fn coverage(&self, left: f64, top: f64) -> f64 {
        const SAMPLES: usize = 4;
        let unit = |corner: f64, sample: usize, centre: f64| {
            (corner + (sample as f64 + 0.5) / SAMPLES as f64 - centre) / self.radius
        };
        let inside = (0..SAMPLES * SAMPLES)
            .filter(|s| {
                let (x, y) = (unit(left, s % SAMPLES, self.x), unit(top, s / SAMPLES, self.y));
                self.shape.contains(x, y)
            })
            .count();
        inside as f64 / (SAMPLES * SAMPLES) as f64
    }
}

impl Scene {
    /// A random scene of a split.
    pub fn draw(split: Split, noise: &mut Noise) -> Self {
        let description = Description::draw(split, noise);
        let caption = description.caption(noise);
        let objects = match description {
            Description::One(object, place) => {
                let place = place.unwrap_or_else(|| pick(&PLACES, noise));
                vec![object.place(place.position(), (1.5, 1.5), noise)]
            }
            Description::Two(a, relation, b) => {
                let (first, second) = relation.places();
                let across = match relation {
                    Relation::Above | Relation::Below => (4.0, 1.5),
                    Relation::LeftOf | Relation::RightOf => (1.5, 4.0),
                };
                vec![a.place(first.position(), across, noise), b.place(second.position(), across, noise)]
            }
        };
        Self { description, caption, objects }
    }

    /// The picture, anti-aliased (see [`Object::coverage`]).
    pub fn render(&self) -> RgbImage {
        let mut picture = RgbImage::from_pixel(SIZE, SIZE, Rgb(BACKGROUND));
        for object in &self.objects {
            let reach = object.radius + 1.0;
            let from = |centre: f64| (centre - reach).floor().clamp(0.0, f64::from(SIZE)) as u32;
            let to = |centre: f64| (centre + reach).ceil().clamp(0.0, f64::from(SIZE)) as u32;
            for py in from(object.y)..to(object.y) {
                for px in from(object.x)..to(object.x) {
                    let cover = object.coverage(f64::from(px), f64::from(py));
                    let pixel = picture.get_pixel_mut(px, py);
                    for (value, colour) in pixel.0.iter_mut().zip(object.colour.rgb()) {
                        let mixed = f64::from(*value) * (1.0 - cover) + f64::from(colour) * cover;
                        *value = mixed.round() as u8;
                    }
                }
            }
        }
        picture
    }
}
