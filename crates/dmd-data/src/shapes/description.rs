use dmd_core::Noise;

use super::words::{COLOURS, Colour, PLACES, Place, RELATIONS, Relation, SHAPES, SIZES, Shape, Size};

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

pub(super) fn pick<T: Copy>(items: &[T], noise: &mut Noise) -> T {
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

impl Description {
    /// What a caption of this set says, whatever its wording; `None` for other text.
    pub fn parse(caption: &str) -> Option<Self> {
        let openings = ["a picture of ", "a drawing of "];
        let phrase = openings.iter().find_map(|opening| caption.strip_prefix(opening)).unwrap_or(caption);
        let (first, rest) = Described::parse(phrase)?;
        if rest.is_empty() {
            return Some(Self::One(first, None));
        }
        if let Some(place) = PLACES.into_iter().find(|place| place.words().contains(&rest)) {
            return Some(Self::One(first, Some(place)));
        }
        let relations = RELATIONS.into_iter().flat_map(|r| r.words().iter().map(move |words| (r, words)));
        relations
            .filter_map(|(relation, words)| Some((relation, rest.strip_prefix(words)?.strip_prefix(' ')?)))
            .find_map(|(relation, rest)| match Described::parse(rest)? {
                (second, "") => Some(Self::Two(first, relation, second)),
                _ => None,
            })
    }
}

impl Described {
    /// An object at the beginning of a phrase, and what follows it.
    fn parse(phrase: &str) -> Option<(Self, &str)> {
        let rest = ["a ", "an ", "the "].iter().find_map(|article| phrase.strip_prefix(article))?;
        let (word, after) = split(rest);
        let size = SIZES.into_iter().find(|size| size.words().contains(&word));
        let (word, rest) = split(if size.is_some() { after } else { rest });
        let colour = COLOURS.into_iter().find(|colour| colour.words().contains(&word))?;
        let (word, rest) = split(rest);
        let shape = SHAPES.into_iter().find(|shape| shape.words().contains(&word))?;
        Some((Self { shape, colour, size }, rest))
    }
}

/// The first word, and what follows it.
fn split(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
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
