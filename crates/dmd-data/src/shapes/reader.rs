//! Reads a picture of the shapes set back: which objects it shows, from pixels alone. This is what
//! makes prompt accuracy a number.

use image::RgbImage;

use super::words::{COLOURS, SHAPES};
use super::{BACKGROUND, Colour, Described, Description, Object, Place, Relation, Shape, Size};

/// Smallest group of pixels that counts as an object; the smallest drawn covers about 70.
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
    let mut open: Vec<bool> =
        (0..width * height).map(|i| distance(pixel(i), BACKGROUND) > FOREGROUND).collect();
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
            let places: Vec<(usize, usize)> = group.iter().map(|i| (i % width, i / width)).collect();
            objects.push(recognise(picture, &places));
        }
    }
    objects
}

/// Colour by majority; outline, centre and radius by the best fit.
fn recognise(picture: &RgbImage, group: &[(usize, usize)]) -> Object {
    let mut votes = [0_usize; COLOURS.len()];
    for (x, y) in group {
        let rgb = picture.get_pixel(*x as u32, *y as u32).0;
        let nearest = |a: &Colour, b: &Colour| distance(a.rgb(), rgb).total_cmp(&distance(b.rgb(), rgb));
        if let Some(colour) = COLOURS.into_iter().min_by(nearest) {
            votes[colour as usize] += 1;
        }
    }
    let most = |c: &Colour| votes[*c as usize];
    let colour = COLOURS.into_iter().max_by_key(most).unwrap_or(Colour::Black);
    let window = Coverage::around(picture, group, colour);
    let fits = SHAPES.into_iter().map(|shape| window.fit(shape, colour));
    let best = fits.min_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or_else(|| unreachable!("there are shapes"), |(_, object)| object)
}

/// How much of each pixel of a window an object covers, from 0 (background) to 1 (its colour).
struct Coverage {
    left: usize,
    top: usize,
    width: usize,
    cover: Vec<f64>,
}

impl Coverage {
    /// Two pixels of margin around a group, where its soft edge may reach.
    fn around(picture: &RgbImage, group: &[(usize, usize)], colour: Colour) -> Self {
        const MARGIN: usize = 2;
        let edge = |f: fn(&(usize, usize)) -> usize, limit: u32| {
            let low = group.iter().map(f).min().unwrap_or(0).saturating_sub(MARGIN);
            let high = group.iter().map(f).max().unwrap_or(0) + MARGIN + 1;
            (low, high.min(limit as usize))
        };
        let (left, right) = edge(|p| p.0, picture.width());
        let (top, bottom) = edge(|p| p.1, picture.height());
        let axis: Vec<f64> =
            colour.rgb().into_iter().zip(BACKGROUND).map(|(c, b)| f64::from(c) - f64::from(b)).collect();
        let length: f64 = axis.iter().map(|a| a * a).sum();
        let mut cover = Vec::with_capacity((right - left) * (bottom - top));
        for y in top..bottom {
            for x in left..right {
                let rgb = picture.get_pixel(x as u32, y as u32).0;
                let along = rgb.iter().zip(BACKGROUND).zip(&axis);
                let dot: f64 = along.map(|((p, b), a)| (f64::from(*p) - f64::from(b)) * a).sum();
                cover.push((dot / length).clamp(0.0, 1.0));
            }
        }
        Self { left, top, width: right - left, cover }
    }

    /// The object of a shape that covers the window most alike, and the squared error left: same
    /// area, same centre of gravity, then a search around them.
    fn fit(&self, shape: Shape, colour: Colour) -> (f64, Object) {
        let at = |i: usize| {
            let (x, y) = (i % self.width + self.left, i / self.width + self.top);
            (x as f64 + 0.5, y as f64 + 0.5)
        };
        let area: f64 = self.cover.iter().sum();
        let weighted = |f: fn((f64, f64)) -> f64| {
            self.cover.iter().enumerate().map(|(i, c)| c * f(at(i))).sum::<f64>() / area
        };
        // Area over squared radius, and how far the centre of gravity lies below the centre.
        let (unit_area, sag) = match shape {
            Shape::Circle => (std::f64::consts::PI, 0.0),
            Shape::Square => (4.0 * shape.half_width() * shape.half_width(), 0.0),
            Shape::Triangle => (2.0, 1.0 / 3.0),
        };
        let radius = (area / unit_area).sqrt();
        let (x, y) = (weighted(|p| p.0), weighted(|p| p.1) - sag * radius);
        let mut best = (f64::INFINITY, Object { shape, colour, x, y, radius });
        for scale in [-0.5, 0.0, 0.5] {
            for shift in [-0.5, 0.0, 0.5] {
                let object = Object { shape, colour, x, y: y + shift, radius: radius + scale };
                let error: f64 = self
                    .cover
                    .iter()
                    .enumerate()
                    .map(|(i, c)| {
                        let (px, py) = at(i);
                        (object.coverage(px - 0.5, py - 0.5) - c).powi(2)
                    })
                    .sum();
                if error < best.0 {
                    best = (error, object);
                }
            }
        }
        best
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
        Place::Centre => (LOW..=HIGH).contains(&object.x) && (LOW..=HIGH).contains(&object.y),
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
