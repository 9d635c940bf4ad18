//! Reads a picture of the shapes set back: which objects it shows, from pixels alone. This is what
//! makes prompt accuracy a number.

use image::RgbImage;

use crate::shapes::{
    BACKGROUND, COLOURS, Colour, Described, Description, Object, Place, Relation, SHAPES, Shape, Size,
};

/// Smallest group of pixels that counts as an object; the smallest drawn has about 70.
const MIN_AREA: usize = 24;
/// Distance in RGB from the background at which a pixel belongs to an object.
const FOREGROUND: f64 = 70.0;
/// Radius between small (at most 7.5) and large (at least 10.5).
const SIZE_BORDER: f64 = 9.0;

fn distance(a: [u8; 3], b: [u8; 3]) -> f64 {
    let square = |(a, b): (u8, u8)| (f64::from(a) - f64::from(b)).powi(2);
    a.into_iter().zip(b).map(square).sum::<f64>().sqrt()
}

/// The objects of a picture: groups of connected pixels that differ from the background.
pub fn read(picture: &RgbImage) -> Vec<Object> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let pixel = |i: usize| picture.get_pixel((i % width) as u32, (i / width) as u32).0;
    let mut open: Vec<bool> = (0..width * height)
        .map(|i| distance(pixel(i), BACKGROUND) > FOREGROUND)
        .collect();
    let mut objects = Vec::new();
    for start in 0..open.len() {
        if !open[start] {
            continue;
        }
        let mut group = vec![start];
        open[start] = false;
        let mut next = 0;
        while next < group.len() {
            let at = group[next];
            next += 1;
            let (x, y) = (at % width, at / width);
            let mut visit = |inside: bool, neighbour: usize| {
                if inside && open[neighbour] {
                    open[neighbour] = false;
                    group.push(neighbour);
                }
            };
            visit(x > 0, at.wrapping_sub(1));
            visit(x + 1 < width, at + 1);
            visit(y > 0, at.wrapping_sub(width));
            visit(y + 1 < height, at + width);
        }
        if group.len() >= MIN_AREA {
            let pixels: Vec<(usize, usize, [u8; 3])> = group
                .into_iter()
                .map(|i| (i % width, i / width, pixel(i)))
                .collect();
            objects.push(recognise(&pixels));
        }
    }
    objects
}

/// Colour by majority, shape by which outline of the same bounding box covers the pixels best.
fn recognise(pixels: &[(usize, usize, [u8; 3])]) -> Object {
    let mut votes = [0_usize; COLOURS.len()];
    for (_, _, rgb) in pixels {
        let nearest = |a: &Colour, b: &Colour| {
            distance(a.rgb(), *rgb).total_cmp(&distance(b.rgb(), *rgb))
        };
        if let Some(colour) = COLOURS.into_iter().min_by(nearest) {
            votes[colour as usize] += 1;
        }
    }
    let most = |c: &Colour| votes[*c as usize];
    let colour = COLOURS.into_iter().max_by_key(most).unwrap_or(Colour::Black);

    let min = |f: fn(&(usize, usize, [u8; 3])) -> usize| pixels.iter().map(f).min().unwrap_or(0) as f64;
    let max = |f: fn(&(usize, usize, [u8; 3])) -> usize| pixels.iter().map(f).max().unwrap_or(0) as f64 + 1.0;
    let (left, right, top, bottom) = (min(|p| p.0), max(|p| p.0), min(|p| p.1), max(|p| p.1));
    let fill = pixels.len() as f64 / ((right - left) * (bottom - top));
    // Share of its bounding box that each outline covers: π/4, 1 and 1/2.
    let share = |shape: &Shape| match shape {
        Shape::Circle => std::f64::consts::FRAC_PI_4,
        Shape::Square => 1.0,
        Shape::Triangle => 0.5,
    };
    let closest = |a: &Shape, b: &Shape| {
        (share(a) - fill).abs().total_cmp(&(share(b) - fill).abs())
    };
    let shape = SHAPES.into_iter().min_by(closest).unwrap_or(Shape::Circle);
    Object {
        shape,
        colour,
        x: (left + right) / 2.0,
        y: (top + bottom) / 2.0,
        radius: (right - left + bottom - top) / 4.0 / shape.half_width(),
    }
}

impl Described {
    /// Whether an object is as described.
    pub fn fits(&self, object: &Object) -> bool {
        let size = if object.radius < SIZE_BORDER { Size::Small } else { Size::Large };
        self.shape == object.shape
            && self.colour == object.colour
            && self.size.is_none_or(|wanted| wanted == size)
    }
}

impl Description {
    /// Whether a picture shows exactly what is described: the number of objects, and every stated
    /// shape, colour, size, place and relation.
    pub fn fits(&self, objects: &[Object]) -> bool {
        match (self, objects) {
            (Self::One(described, place), [object]) => {
                described.fits(object) && place.is_none_or(|place| stands_at(object, place))
            }
            (Self::Two(a, relation, b), [x, y]) => {
                let right = |first: &Object, second: &Object| {
                    a.fits(first) && b.fits(second) && related(first, *relation, second)
                };
                right(x, y) || right(y, x)
            }
            _ => false,
        }
    }
}

fn stands_at(object: &Object, place: Place) -> bool {
    const LOW: f64 = 24.5;
    const HIGH: f64 = 39.5;
    match place {
        Place::Left => object.x < LOW,
        Place::Right => object.x > HIGH,
        Place::Top => object.y < LOW,
        Place::Bottom => object.y > HIGH,
        Place::Centre => {
            (LOW..=HIGH).contains(&object.x) && (LOW..=HIGH).contains(&object.y)
        }
    }
}

/// Centres are 30 ± 3 pixels apart along the relation's axis, at most 8 across it.
fn related(a: &Object, relation: Relation, b: &Object) -> bool {
    const APART: f64 = 15.0;
    match relation {
        Relation::Above => b.y - a.y > APART,
        Relation::Below => a.y - b.y > APART,
        Relation::LeftOf => b.x - a.x > APART,
        Relation::RightOf => a.x - b.x > APART,
    }
}
