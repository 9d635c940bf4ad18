//! The procedural set of captioned pictures: one or two coloured shapes with sizes and places,
//! drawn with anti-aliasing, described in plain English with synonyms. Deterministic by seed.

mod scene;

use dmd_core::Noise;
pub use scene::{Object, Scene};

/// Height and width of every picture.
pub const SIZE: u32 = 64;
/// The colour around the shapes.
pub const BACKGROUND: [u8; 3] = [245, 243, 238];

/// Outline of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// A disc of the object's radius.
    Circle,
    /// An upright square, 1.76 radii wide.
    Square,
    /// A triangle pointing up, two radii wide and high.
    Triangle,
}

/// Colour of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "a colour's name says it all")]
pub enum Colour {
    Red,
    Green,
    Blue,
    Yellow,
    Purple,
    Black,
}

/// Size of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Size {
    /// A radius of 6 to 7.5 pixels.
    Small,
    /// A radius of 10.5 to 12 pixels.
    Large,
}

/// Where a single object stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "a place's name says it all")]
pub enum Place {
    Left,
    Right,
    Top,
    Bottom,
    Centre,
}

/// Where the first of two objects stands, seen from the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "a relation's name says it all")]
pub enum Relation {
    Above,
    Below,
    LeftOf,
    RightOf,
}

/// Every shape.
pub const SHAPES: [Shape; 3] = [Shape::Circle, Shape::Square, Shape::Triangle];
/// Every colour.
pub const COLOURS: [Colour; 6] =
    [Colour::Red, Colour::Green, Colour::Blue, Colour::Yellow, Colour::Purple, Colour::Black];
const SIZES: [Size; 2] = [Size::Small, Size::Large];
const PLACES: [Place; 5] = [Place::Left, Place::Right, Place::Top, Place::Bottom, Place::Centre];
const RELATIONS: [Relation; 4] = [Relation::Above, Relation::Below, Relation::LeftOf, Relation::RightOf];

impl Colour {
    /// Red, green and blue, 0 to 255.
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [220, 40, 40],
            Self::Green => [40, 160, 70],
            Self::Blue => [45, 85, 220],
            Self::Yellow => [240, 200, 40],
            Self::Purple => [140, 60, 180],
            Self::Black => [35, 35, 40],
        }
    }

    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Red => &["red", "crimson"],
            Self::Green => &["green", "emerald"],
            Self::Blue => &["blue", "azure"],
            Self::Yellow => &["yellow", "golden"],
            Self::Purple => &["purple", "violet"],
            Self::Black => &["black", "dark"],
        }
    }
}

impl Shape {
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Circle => &["circle", "disc"],
            Self::Square => &["square", "box"],
            Self::Triangle => &["triangle", "pyramid"],
        }
    }

    /// Half the width over the radius.
    pub(crate) fn half_width(self) -> f64 {
        match self {
            Self::Circle | Self::Triangle => 1.0,
            Self::Square => 0.88,
        }
    }

    /// Whether a point lies in the shape of radius 1 around the origin (y grows downwards).
    fn contains(self, x: f64, y: f64) -> bool {
        match self {
            Self::Circle => x * x + y * y <= 1.0,
            Self::Square => x.abs() <= 0.88 && y.abs() <= 0.88,
            Self::Triangle => (-1.0..=1.0).contains(&y) && x.abs() <= (y + 1.0) / 2.0,
        }
    }
}

impl Size {
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Small => &["small", "tiny", "little"],
            Self::Large => &["large", "big", "huge"],
        }
    }

    fn radius(self) -> (f64, f64) {
        match self {
            Self::Small => (6.0, 7.5),
            Self::Large => (10.5, 12.0),
        }
    }
}

impl Place {
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Left => &["on the left", "at the left"],
            Self::Right => &["on the right", "at the right"],
            Self::Top => &["at the top", "on the top"],
            Self::Bottom => &["at the bottom", "on the bottom"],
            Self::Centre => &["in the centre", "in the middle"],
        }
    }

    /// Centre of an object at this place, before jitter.
    fn position(self) -> (f64, f64) {
        match self {
            Self::Left => (17.0, 32.0),
            Self::Right => (47.0, 32.0),
            Self::Top => (32.0, 17.0),
            Self::Bottom => (32.0, 47.0),
            Self::Centre => (32.0, 32.0),
        }
    }
}

impl Relation {
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Above => &["above", "over", "on top of"],
            Self::Below => &["below", "under", "beneath"],
            Self::LeftOf => &["left of", "to the left of"],
            Self::RightOf => &["right of", "to the right of"],
        }
    }

    /// The place of the first and of the second object.
    fn places(self) -> (Place, Place) {
        match self {
            Self::Above => (Place::Top, Place::Bottom),
            Self::Below => (Place::Bottom, Place::Top),
            Self::LeftOf => (Place::Left, Place::Right),
            Self::RightOf => (Place::Right, Place::Left),
        }
    }
}

/// What a caption says of one object; what it leaves open is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Described {
    /// Outline.
    pub shape: Shape,
    /// Colour.
    pub colour: Colour,
    /// Size, where the caption names one.
    pub size: Option<Size>,
}

/// What a caption says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Description {
    /// One object, at a place where the caption names one.
    One(Described, Option<Place>),
    /// Two objects: the first stands in the relation to the second.
    Two(Described, Relation, Described),
}

/// Which compositions are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Nine in ten compositions of shapes, colours and places.
    Train,
    /// The rest, never seen in training.
    HeldOut,
}

fn pick<T: Copy>(items: &[T], noise: &mut Noise) -> T {
    items[noise.below(items.len())]
}

impl Description {
    /// A random description of a split: two objects in two of three cases.
    pub fn draw(split: Split, noise: &mut Noise) -> Self {
        loop {
            let mut described = || Described {
                shape: pick(&SHAPES, noise),
                colour: pick(&COLOURS, noise),
                size: [None, None, Some(Size::Small), Some(Size::Large)][noise.below(4)],
            };
            let (first, second) = (described(), described());
            let description = if noise.below(3) == 0 {
                let place = (noise.below(4) != 0).then(|| pick(&PLACES, noise));
                Self::One(first, place)
            } else {
                Self::Two(first, pick(&RELATIONS, noise), second)
            };
            if description.split() == split {
                return description;
            }
        }
    }

    /// Which split a composition belongs to. Sizes and wording play no part, and "A above B" is
    /// the same composition as "B below A".
    pub fn split(&self) -> Split {
        let code = |d: &Described| (d.shape as u64) * 6 + d.colour as u64;
        let key = match self {
            Self::One(object, place) => {
                let place = place.map_or(0, |p| 1 + p as u64);
                1_000_000 + code(object) * 10 + place
            }
            Self::Two(a, relation, b) => {
                let (upper, vertical, lower) = match relation {
                    Relation::Above => (a, 1, b),
                    Relation::Below => (b, 1, a),
                    Relation::LeftOf => (a, 0, b),
                    Relation::RightOf => (b, 0, a),
                };
                (code(upper) * 100 + code(lower)) * 2 + vertical
            }
        };
        // One round of SplitMix64: a fixed hash of the composition.
        let mut z = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        match (z ^ (z >> 31)) % 10 {
            0 => Split::HeldOut,
            _ => Split::Train,
        }
    }

    /// A caption in plain English, wording drawn at random.
    pub fn caption(&self, noise: &mut Noise) -> String {
        let opening = pick(&["", "", "", "a picture of ", "a drawing of "], noise);
        let phrase = match self {
            Self::One(object, place) => {
                let object = object.phrase(noise);
                match place {
                    Some(place) => format!("{object} {}", pick(place.words(), noise)),
                    None => object,
                }
            }
            Self::Two(a, relation, b) => {
                let a = a.phrase(noise);
                let relation = pick(relation.words(), noise);
                format!("{a} {relation} {}", b.phrase(noise))
            }
        };
        format!("{opening}{phrase}")
    }
}

impl Described {
    fn phrase(&self, noise: &mut Noise) -> String {
        // The plain word more often than its synonym.
        let mut word = |words: &[&'static str]| {
            if noise.below(2) == 0 { words[0] } else { pick(words, noise) }
        };
        let colour = word(self.colour.words());
        let shape = word(self.shape.words());
        let size = self.size.map(|size| word(size.words()));
        let first = size.unwrap_or(colour);
        let article = if first.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        match size {
            Some(size) => format!("{article} {size} {colour} {shape}"),
            None => format!("{article} {colour} {shape}"),
        }
    }
}

/// Every word that a caption can contain, for the tokenizer's vocabulary.
pub fn vocabulary() -> Vec<&'static str> {
    let mut words = vec!["a", "an", "the", "picture", "drawing", "of", "and", "with"];
    let phrases = SHAPES
        .iter()
        .flat_map(|s| s.words())
        .chain(COLOURS.iter().flat_map(|c| c.words()))
        .chain(SIZES.iter().flat_map(|s| s.words()))
        .chain(PLACES.iter().flat_map(|p| p.words()))
        .chain(RELATIONS.iter().flat_map(|r| r.words()));
    words.extend(phrases.flat_map(|phrase| phrase.split(' ')));
    words.sort_unstable();
    words.dedup();
    words
}
