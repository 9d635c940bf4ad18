//! The report of all differences between a file and a network.

use std::fmt;

use crate::plan::common_prefix;

/// Every difference between a file's tensors and a module's parameters. The message gives the number of each kind, and
/// names a few of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Parameters that the file does not have.
    pub missing: Vec<String>,
    /// Tensors that belong to no parameter of the module.
    pub unused: Vec<String>,
    /// Tensors whose shape differs from that of their parameter.
    pub misshapen: Vec<Misshapen>,
}

/// A tensor whose shape differs from that of its parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misshapen {
    /// Name of the tensor.
    pub name: String,
    /// The parameter's shape in the layout of files.
    pub expected: Vec<usize>,
    /// The tensor's shape in the file.
    pub found: Vec<usize>,
}

/// Maximum number of characters in the report for one kind of difference.
const KIND: usize = 240;

/// Maximum number of characters of a name, or of the text about one.
const NAME: usize = 110;

/// Minimum similarity of two names, from 0 to 1, at which one is suggested for the other: at most one letter in five
/// differs.
const NEAR: f64 = 0.8;

impl Mismatch {
    /// The unused tensor whose name is most similar to that of a missing one, or `None` if no name is similar enough.
    pub fn near(&self, missing: &str) -> Option<&str> {
        let likeness = |name: &str| strsim::normalized_damerau_levenshtein(missing, name);
        // The comparison takes time and memory proportional to the product of both lengths.
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

/// Formats one kind of difference: the number, and as many names as there is room for.
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

/// The name with control characters escaped, and shortened in the middle if it is too long.
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
