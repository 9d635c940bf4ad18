//! The one report of all differences between a file and a network.

use std::fmt;

use crate::plan::common_prefix;

/// Every difference between a file's tensors and a module's parameters. Its text names a few of each kind and counts them
/// all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Parameters the file does not have.
    pub missing: Vec<String>,
    /// Tensors the module has no use for.
    pub unused: Vec<String>,
    /// Tensors of another shape.
    pub misshapen: Vec<Misshapen>,
}

/// A tensor whose shape is not the parameter's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misshapen {
    /// The tensor.
    pub name: String,
    /// The parameter's shape, as a file would have it.
    pub expected: Vec<usize>,
    /// The file's shape.
    pub found: Vec<usize>,
}

/// Characters of the report that one kind of difference takes.
const KIND: usize = 240;

/// Characters of a name, or of what is said about one.
const NAME: usize = 110;

/// How alike two names are, from 0 to 1, before one is suggested for the other: at most one letter
/// in five differs.
const NEAR: f64 = 0.8;

impl Mismatch {
    /// The unused tensor whose name is nearest to a missing one, if one is near.
    pub fn near(&self, missing: &str) -> Option<&str> {
        let likeness = |name: &str| strsim::normalized_damerau_levenshtein(missing, name);
        // Comparing takes time and memory by the product of both lengths.
        let short = |name: &&String| name.len() <= NAME && missing.len() <= NAME;
        let candidates = self.unused.iter().filter(short).map(|name| (likeness(name), name.as_str()));
        let best = candidates.max_by(|a, b| a.0.total_cmp(&b.0));
        best.filter(|(likeness, _)| *likeness >= NEAR).map(|(_, name)| name)
    }

    /// Whether there is no difference at all.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unused.is_empty() && self.misshapen.is_empty()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = self.missing.iter().map(|name| match self.near(name) {
            Some(near) => format!("{} (is it {}?)", shown(name), shown(near)),
            None => shown(name),
        });
        let unused = self.unused.iter().map(|name| shown(name));
        let misshapen = self.misshapen.iter().map(|m| {
            let shapes = format!("is {:?}, expected {:?}", m.found, m.expected);
            format!("{} {}", shown(&m.name), shown(&shapes))
        });
        let mut parts = vec![
            part("missing", self.missing.len(), missing),
            part("unused", self.unused.len(), unused),
            part("misshapen", self.misshapen.len(), misshapen),
        ];
        parts.retain(|part| !part.is_empty());
        let common = common_prefix(self.unused.iter());
        let common = common.rfind('.').map_or("", |dot| &common[..=dot]);
        if self.unused.len() > 1 && !common.is_empty() {
            parts.push(format!("all of the unused begin with {:?}", shown(common)));
        }
        f.write_str(&parts.join("; "))
    }
}

/// A kind of difference: the number, and as many names as there is room for.
fn part(kind: &str, count: usize, names: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    for (i, name) in names.enumerate() {
        if i > 0 && text.len() + name.len() > KIND {
            return format!("{count} {kind}: {text} and {} more", count - i);
        }
        let separator = if i > 0 { ", " } else { "" };
        text = format!("{text}{separator}{name}");
    }
    if count == 0 { String::new() } else { format!("{count} {kind}: {text}") }
}

/// A name without what a terminal would act on, and cut in the middle where it is too long to read.
fn shown(name: &str) -> String {
    let escaped: Vec<char> = name
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect();
    if escaped.len() <= NAME {
        return escaped.into_iter().collect();
    }
    let half = NAME / 2;
    let (start, end) = (&escaped[..half], &escaped[escaped.len() - half..]);
    start.iter().chain(&['…']).chain(end).collect()
}
