//! The report about a LoRA file's keys.

use std::fmt;

/// Which updates of a LoRA file were used, over all parts of the model that the file was fitted to.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraReport {
    /// Number of layers with an update.
    pub applied: usize,
    /// The smallest and the largest rank.
    pub rank: (usize, usize),
    /// The smallest and the largest factor of the updates at a strength of 1, `alpha / rank`.
    pub factor: (f64, f64),
    /// Every key that was not used.
    pub unused: Vec<String>,
    /// Notes for the user, one sentence each.
    pub notes: Vec<String>,
}

impl fmt::Display for LoraReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} layers, rank {}, factor {}", self.applied, range(self.rank), range(self.factor))?;
        if let Some(first) = self.unused.first() {
            let more = self.unused.len() - 1;
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            write!(f, "; not used: {first:?}{more}")?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "; {note}"))
    }
}

/// Formats a range, or one number if both ends are equal.
fn range<T: PartialEq + fmt::Display>((low, high): (T, T)) -> String {
    if low == high { low.to_string() } else { format!("{low} to {high}") }
}
