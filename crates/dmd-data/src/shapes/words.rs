//! What captions name, and what is drawn for it.

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
pub(super) const SIZES: [Size; 2] = [Size::Small, Size::Large];
pub(super) const PLACES: [Place; 5] = [Place::Left, Place::Right, Place::Top, Place::Bottom, Place::Centre];
pub(super) const RELATIONS: [Relation; 4] =
    [Relation::Above, Relation::Below, Relation::LeftOf, Relation::RightOf];

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

    pub(super) fn words(self) -> &'static [&'static str] {
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
    pub(super) fn words(self) -> &'static [&'static str] {
        match self {
            Self::Circle => &["circle", "disc"],
            Self::Square => &["square", "box"],
            Self::Triangle => &["triangle", "pyramid"],
        }
    }

    /// Half the width over the radius.
    pub(super) fn half_width(self) -> f64 {
        match self {
            Self::Circle | Self::Triangle => 1.0,
            Self::Square => 0.88,
        }
    }

    /// Whether a point lies in the shape of radius 1 around the origin (y grows downwards).
    pub(super) fn contains(self, x: f64, y: f64) -> bool {
        match self {
            Self::Circle => x * x + y * y <= 1.0,
            Self::Square => x.abs() <= 0.88 && y.abs() <= 0.88,
            Self::Triangle => (-1.0..=1.0).contains(&y) && x.abs() <= (y + 1.0) / 2.0,
        }
    }
}

impl Size {
    pub(super) fn words(self) -> &'static [&'static str] {
        match self {
            Self::Small => &["small", "tiny", "little"],
            Self::Large => &["large", "big", "huge"],
        }
    }

    pub(super) fn radius(self) -> (f64, f64) {
        match self {
            Self::Small => (6.0, 7.5),
            Self::Large => (10.5, 12.0),
        }
    }
}

impl Place {
    pub(super) fn words(self) -> &'static [&'static str] {
        match self {
            Self::Left => &["on the left", "at the left"],
            Self::Right => &["on the right", "at the right"],
            Self::Top => &["at the top", "on the top"],
            Self::Bottom => &["at the bottom", "on the bottom"],
            Self::Centre => &["in the centre", "in the middle"],
        }
    }

    /// Centre of an object at this place, before jitter.
    pub(super) fn position(self) -> (f64, f64) {
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
    pub(super) fn words(self) -> &'static [&'static str] {
        match self {
            Self::Above => &["above", "over", "on top of"],
            Self::Below => &["below", "under", "beneath"],
            Self::LeftOf => &["left of", "to the left of"],
            Self::RightOf => &["right of", "to the right of"],
        }
    }

    /// The place of the first and of the second object.
    pub(super) fn places(self) -> (Place, Place) {
        match self {
            Self::Above => (Place::Top, Place::Bottom),
            Self::Below => (Place::Bottom, Place::Top),
            Self::LeftOf => (Place::Left, Place::Right),
            Self::RightOf => (Place::Right, Place::Left),
        }
    }
}
