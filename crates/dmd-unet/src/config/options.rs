//! Checks of a configuration that has been read: which values of its options this implementation supports.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::Error;

/// Accepted numbers of channels, and of positions along a side. The upper limit is far above any published network, and
/// low enough that the size of a parameter never overflows. It is needed because a configuration is read before the
/// tensors that could contradict it.
const COUNTS: RangeInclusive<usize> = 1..=65_536;

/// Accepted numbers of levels. With 12 levels the deepest has 1/2048 of the height.
const LEVELS: RangeInclusive<usize> = 1..=12;

/// Keys that do not change what a network computes, whatever their values.
const IDLE: [&str; 14] = [
    // Settings of the moving average, which diffusers' `EMAModel.save_pretrained` writes to the network's file.
    "decay",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "update_after_step",
    "use_ema_warmup",
    // Used in training only.
    "dropout",
    // Sizes of additional conditions. They have no effect in a network without such conditions; `addition_embed_type`
    // is checked.
    "addition_time_embed_dim",
    "addition_embed_type_num_heads",
    "projection_class_embeddings_input_dim",
    // Settings for half precision.
    "force_upcast",
    "upcast_attention",
    // The sinusoids of a timestep do not depend on the number of timesteps.
    "num_train_timesteps",
];

/// Checks of one network's configuration. The field is the network's name in error messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options(pub(crate) &'static str);

impl Options {
    /// Returns an error unless `holds`. `must` says which value would be accepted.
    pub(crate) fn require(
        self,
        holds: bool,
        key: &str,
        value: impl Serialize,
        must: impl Display,
    ) -> Result<(), Error> {
        if holds {
            return Ok(());
        }
        Err(Error::Unsupported {
            network: self.0,
            key: key.to_owned(),
            value: json!(value).to_string(),
            hint: format!("; expected {must}"),
        })
    }

    /// Requires that the number is in the range.
    pub(crate) fn within(self, key: &str, number: usize, range: RangeInclusive<usize>) -> Result<(), Error> {
        let must = format!("a number between {} and {}", range.start(), range.end());
        self.require(range.contains(&number), key, number, must)
    }

    /// Requires that every number is in the accepted range of channels or positions.
    pub(crate) fn counts(self, key: &str, numbers: &[usize]) -> Result<(), Error> {
        numbers.iter().try_for_each(|number| self.within(key, *number, COUNTS))
    }

    /// Requires an accepted number of residual blocks of a level.
    pub(crate) fn layers(self, key: &str, number: usize) -> Result<(), Error> {
        self.within(key, number, 1..=64)
    }

    /// Requires that the list has one entry per level.
    pub(crate) fn per_level<T: Serialize>(self, key: &str, list: &[T], levels: usize) -> Result<(), Error> {
        self.require(list.len() == levels, key, list, format_args!("one for each of {levels} levels"))
    }

    /// Requires accepted channels for each level, and an accepted number of levels.
    pub(crate) fn channels(self, key: &str, channels: &[usize]) -> Result<(), Error> {
        let must = format_args!("from {} to {} levels", LEVELS.start(), LEVELS.end());
        self.require(LEVELS.contains(&channels.len()), key, channels, must)?;
        self.counts(key, channels)
    }

    /// Requires that the number divides every level's channels.
    pub(crate) fn divides(self, key: &str, number: usize, channels: &[usize]) -> Result<(), Error> {
        let odd = channels.iter().find(|channels| number == 0 || **channels % number != 0);
        let odd = odd.copied().unwrap_or(0);
        self.require(odd == 0, key, number, format_args!("a number that divides {odd} channels"))
    }

    /// Requires that the number is finite and above 0.
    pub(crate) fn positive(self, key: &str, number: f64) -> Result<(), Error> {
        self.require(number.is_finite() && number > 0.0, key, number, "a finite number above 0")
    }

    /// Checks the options that are no fields of the configuration's struct. An option that `neutral` lists must have
    /// one of the values listed for it, or be a list of such values. Any other option must be null or false, unless it
    /// is in `IDLE` or its name begins with an underscore.
    pub(crate) fn neutral(
        self,
        other: &BTreeMap<String, Value>,
        neutral: &[(&str, Value)],
    ) -> Result<(), Error> {
        for (key, value) in other {
            let known: Vec<&Value> =
                neutral.iter().filter(|(name, _)| name == key).map(|(_, value)| value).collect();
            let fine = key.starts_with('_')
                || IDLE.contains(&key.as_str())
                || match known.as_slice() {
                    [] => is_neutral(value, &[&Value::Null, &Value::Bool(false)]),
                    known => is_neutral(value, known),
                };
            let must = match known.as_slice() {
                [] => "no such option".to_owned(),
                known => known.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "),
            };
            self.require(fine, key, value, must)?;
        }
        Ok(())
    }
}

/// Whether `value`, or each value of a list, is one of `known`. Numbers are compared by value, so that 1 equals 1.0.
fn is_neutral(value: &Value, known: &[&Value]) -> bool {
    let equal = |known: &&&Value| {
        *known == &value || value.as_f64().is_some_and(|number| Some(number) == known.as_f64())
    };
    match value {
        Value::Array(list) if !list.is_empty() && !known.contains(&value) => {
            list.iter().all(|value| is_neutral(value, known))
        }
        _ => known.iter().any(|known| equal(&known)),
    }
}

/// One value for all levels of a network, or one per level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerLevel {
    /// The same value for all levels.
    All(usize),
    /// One value per level, from the highest resolution to the lowest.
    Each(Vec<usize>),
}

impl PerLevel {
    /// The value at a level.
    ///
    /// # Panics
    ///
    /// If a list has no value for that level.
    pub fn at(&self, level: usize) -> usize {
        match self {
            Self::All(value) => *value,
            Self::Each(values) => values[level],
        }
    }
}

/// Reads a number that diffusers also writes as a list of equal numbers.
pub(crate) fn uniform<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    use serde::de::Error as _;

    match PerLevel::deserialize(deserializer)? {
        PerLevel::All(value) => Ok(value),
        PerLevel::Each(values) => match values.as_slice() {
            [first, rest @ ..] if rest.iter().all(|value| value == first) => Ok(*first),
            _ => {
                Err(D::Error::custom(format_args!("{values:?}: expected a number, or a list of equal ones")))
            }
        },
    }
}
