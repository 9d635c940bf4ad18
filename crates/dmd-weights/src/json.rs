//! Reads and writes JSON as Python does. Python's `json` writes `NaN`, `Infinity` and `-Infinity`, which are not valid
//! JSON, and some editors put a byte order mark before the text. serde_json reads neither; this module reads both.

use std::path::Path;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::{Serialize, forward_to_deserialize_any};
use serde_json::Value;

use crate::embedded::read_to_string;
use crate::{Error, write_atomic};

/// Python's spelling of numbers that are not finite.
const NON_FINITE: [(&str, f64); 3] =
    [("-Infinity", f64::NEG_INFINITY), ("Infinity", f64::INFINITY), ("NaN", f64::NAN)];

/// Reads a JSON file, as [`parse_json`] reads its text.
///
/// # Errors
///
/// [`Error::Read`] when the file cannot be read, [`Error::Json`] when its content is not what `T` expects.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    parse_json(&text).map_err(|source| Error::Json { path: path.to_owned(), source })
}

/// Reads `config.json` of a component's folder.
///
/// # Errors
///
/// As [`read_json`].
pub fn read_config<T: DeserializeOwned>(folder: &Path) -> Result<T, Error> {
    read_json(&folder.join("config.json"))
}

/// Parses JSON as Python writes it: a byte order mark is skipped, and `NaN`, `Infinity` and `-Infinity` are numbers.
///
/// Where `T` expects a float, it gets the number. A [`serde_json::Value`] cannot hold such a number. It gets the string
/// `"NaN"`, `"Infinity"` or `"-Infinity"` instead, which [`write_json`] writes as Python does. The same holds below
/// `#[serde(untagged)]`, where serde does not say which type it expects.
///
/// ```
/// let bound: f64 = dmd_weights::parse_json("-Infinity")?;
/// assert_eq!(bound, f64::NEG_INFINITY);
/// let any: serde_json::Value = dmd_weights::parse_json("[-Infinity]")?;
/// assert_eq!(any[0], "-Infinity");
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// # Errors
///
/// When the text is not JSON, or not what `T` expects. The message names the key.
pub fn parse_json<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let parsed = match quoted(text) {
        Some(strict) => serde_path_to_error::deserialize(Lenient(serde_json::from_str(&strict)?)),
        None => {
            let mut json = serde_json::Deserializer::from_str(text);
            let parsed = serde_path_to_error::deserialize(&mut json);
            if parsed.is_ok() {
                json.end()?;
            }
            parsed
        }
    };
    // The message says what is wrong, and at which key.
    parsed.map_err(serde_json::Error::custom)
}

/// Writes an indented JSON file, completely or not at all. A value that is the string `"NaN"`, `"Infinity"` or
/// `"-Infinity"` is written without quotes, as Python writes such a number. A value that [`read_json`] read is thus
/// written back unchanged.
///
/// # Errors
///
/// [`Error::Write`] when the file cannot be written, [`Error::Json`] when `value` cannot be expressed in JSON.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|source| Error::Json { path: path.to_owned(), source })?;
    text.push('\n');
    write_atomic(path, unquoted(&text).as_bytes())
}

/// The length of the string literal at the start of `text`, including both quotes.
fn literal(text: &str) -> Option<usize> {
    let mut escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    text.starts_with('"').then_some(end?).map(|end| end + 2)
}

/// Puts quotes around `NaN`, `Infinity` and `-Infinity` outside strings. Returns `None` if the text has none of them.
fn quoted(text: &str) -> Option<String> {
    if !NON_FINITE.iter().any(|(word, _)| text.contains(word)) {
        return None;
    }
    let (mut strict, mut rest, mut found) = (String::with_capacity(text.len() + 16), text, false);
    while let Some(first) = rest.chars().next() {
        let word = NON_FINITE.iter().map(|(word, _)| *word).find(|word| rest.starts_with(word));
        let length = word.map(str::len).or_else(|| literal(rest)).unwrap_or(first.len_utf8());
        let (piece, after) = rest.split_at(length);
        match word {
            Some(word) => strict.extend(["\"", word, "\""]),
            None => strict.push_str(piece),
        }
        found |= word.is_some();
        rest = after;
    }
    found.then_some(strict)
}

/// The reverse of [`quoted`]. Keys of objects keep their quotes.
fn unquoted(text: &str) -> String {
    let (mut python, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(start) = rest.find('"') {
        let (before, string) = rest.split_at(start);
        let (string, after) = string.split_at(literal(string).unwrap_or(string.len()));
        let content = string.trim_matches('"');
        let bare = non_finite(content).is_some() && !after.trim_start().starts_with(':');
        python.extend([before, if bare { content } else { string }]);
        rest = after;
    }
    python.push_str(rest);
    python
}

fn non_finite(text: &str) -> Option<f64> {
    NON_FINITE.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
}

/// A value whose strings `"NaN"`, `"Infinity"` and `"-Infinity"` are deserialised as numbers where a float is expected.
struct Lenient(Value);

impl IntoDeserializer<'_, serde_json::Error> for Lenient {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Lenient {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Array(values) => {
                let mut values = SeqDeserializer::new(values.into_iter().map(Lenient));
                let value = visitor.visit_seq(&mut values)?;
                values.end().map(|()| value)
            }
            Value::Object(entries) => {
                let entries = entries.into_iter().map(|(name, value)| (name, Lenient(value)));
                visitor.visit_map(MapDeserializer::new(entries))
            }
            plain => plain.deserialize_any(visitor),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0.as_str().and_then(non_finite) {
            Some(value) => visitor.visit_f64(value),
            None => self.0.deserialize_f64(visitor),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}
