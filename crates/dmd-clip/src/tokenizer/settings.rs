//! `tokenizer_config.json` and `special_tokens_map.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::AddedToken;

use super::added::{Added, AddedTokens};
use super::file::TokenizerFile;
use super::{MIN_TOKENS, refusal};
use crate::Error;

/// The side on which short prompts are padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Side {
    /// After the end token.
    #[default]
    Right,
    /// Before the start token.
    Left,
}

/// A special token, by its text or with its flags.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Named {
    Text(String),
    Token(Added),
}

impl Named {
    fn into_special(self) -> Added {
        match self {
            Self::Text(content) => Added::special(content),
            Self::Token(token) => Added { special: true, ..token },
        }
    }
}

/// `tokenizer_config.json`, as far as it decides about tokens.
#[derive(Deserialize, Default)]
struct ConfigFile {
    #[serde(default)]
    model_max_length: Option<f64>,
    /// The older name of [`Self::model_max_length`].
    #[serde(default)]
    max_len: Option<f64>,
    #[serde(default)]
    padding_side: Option<Side>,
    #[serde(default)]
    added_tokens_decoder: Option<BTreeMap<u32, Added>>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

/// What a tokenizer's folder says besides its vocabulary.
pub(super) struct Settings {
    pub(super) start: Added,
    pub(super) end: Added,
    pub(super) unknown: Added,
    pub(super) padding: Added,
    pub(super) padding_side: Side,
    /// Added tokens by number, from `added_tokens_decoder`.
    pub(super) added: BTreeMap<u32, Added>,
    /// Every other special token, with the key that names it.
    others: Vec<(String, Added)>,
    max_length: Option<usize>,
}

impl Settings {
    /// CLIP's special tokens with a padding token.
    pub(super) fn plain(padding: &str) -> Self {
        let special = |content: &str| Added::special(content.to_owned());
        Self {
            start: special("<|startoftext|>"),
            end: special("<|endoftext|>"),
            unknown: special("<|endoftext|>"),
            padding: special(padding),
            padding_side: Side::Right,
            added: BTreeMap::new(),
            others: Vec::new(),
            max_length: None,
        }
    }

    pub(super) fn from_dir(folder: &Path, file: Option<&TokenizerFile>) -> Result<Self, Error> {
        let read = |name: &str| {
            let path = folder.join(name);
            dmd_weights::is_file(&path).then_some(path)
        };
        let config: ConfigFile = match read("tokenizer_config.json") {
            Some(path) => dmd_weights::read_json(&path)?,
            None => ConfigFile::default(),
        };
        refuse_options(folder, &config.other)?;
        let mut named = config.other;
        // As in transformers: a folder with `added_tokens_decoder` keeps its special tokens there.
        if config.added_tokens_decoder.is_none()
            && let Some(path) = read("special_tokens_map.json")
        {
            named.extend(dmd_weights::read_json::<BTreeMap<String, Value>>(&path)?);
        }
        let padding = file.and_then(|file| file.padding.as_ref());
        if let Some(token) = padding.and_then(|padding| padding.pad_token.clone()) {
            named.entry("pad_token".to_owned()).or_insert(Value::String(token));
        }
        let of_file = padding.and_then(|padding| padding.direction.as_deref());
        let padding_side = config.padding_side.unwrap_or(match of_file {
            Some("Left") => Side::Left,
            _ => Side::Right,
        });
        let added = config.added_tokens_decoder.unwrap_or_default();
        let mut special = special_tokens(folder, named)?;
        let mut take = |key: &str, default: &str| match special.iter().position(|(name, _)| name == key) {
            Some(place) => special.swap_remove(place).1,
            None => Added::special(default.to_owned()),
        };
        Ok(Self {
            start: take("bos_token", "<|startoftext|>"),
            end: take("eos_token", "<|endoftext|>"),
            unknown: take("unk_token", "<|endoftext|>"),
            padding: take("pad_token", "<|endoftext|>"),
            padding_side,
            added,
            others: special,
            max_length: max_length(folder, config.model_max_length.or(config.max_len))?,
        })
    }

    /// Special tokens that are also among the added ones have the flags that they have there.
    pub(super) fn adopt(&mut self, added: &AddedTokens) {
        let named = [&mut self.start, &mut self.end, &mut self.unknown, &mut self.padding];
        for token in named.into_iter().chain(self.others.iter_mut().map(|(_, token)| token)) {
            if let Some(known) = added.get(&token.content) {
                *token = Added { special: true, ..known.clone() };
            }
        }
    }

    /// All special tokens, ready to be found in a text.
    pub(super) fn special_tokens(&self) -> Vec<AddedToken> {
        let named = [&self.start, &self.end, &self.unknown, &self.padding];
        let others = self.others.iter().map(|(_, token)| token);
        named.into_iter().chain(others).cloned().map(Added::into_token).collect()
    }

    /// Refuses a special token without a number.
    pub(super) fn check_special_tokens(
        &self,
        folder: &Path,
        is_known: impl Fn(&str) -> bool,
    ) -> Result<(), Error> {
        match self.others.iter().find(|(_, token)| !is_known(&token.content)) {
            None => Ok(()),
            Some((key, token)) => {
                Err(refusal(folder, key, &json!(token.content), "a token of the vocabulary or an added one"))
            }
        }
    }

    /// Tokens per prompt for a text encoder of so many positions.
    pub(super) fn max_tokens(&self, positions: usize) -> usize {
        self.max_length.unwrap_or(positions).min(positions)
    }
}

/// The length that a folder limits prompts to, unless it is transformers' word for "no limit", 10³⁰.
fn max_length(folder: &Path, found: Option<f64>) -> Result<Option<usize>, Error> {
    match found {
        None => Ok(None),
        Some(length) if length >= MIN_TOKENS as f64 && (length.fract() == 0.0) => Ok(Some(length as usize)),
        Some(length) => {
            let must = format!("a whole number from {MIN_TOKENS}: start, a word and the end");
            Err(refusal(folder, "model_max_length", &json!(length), must))
        }
    }
}

/// Options of `tokenizer_config.json` that would change the tokens.
fn refuse_options(folder: &Path, found: &BTreeMap<String, Value>) -> Result<(), Error> {
    let expected = [
        ("add_prefix_space", json!(false)),
        ("split_special_tokens", json!(false)),
        ("add_bos_token", json!(true)),
        ("add_eos_token", json!(true)),
        ("do_lower_case", json!(true)),
    ];
    for (key, expected) in expected {
        match found.get(key) {
            Some(value) if !value.is_null() && *value != expected => {
                return Err(refusal(folder, key, value, expected));
            }
            _ => {}
        }
    }
    let classes = ["CLIPTokenizer", "CLIPTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"];
    match found.get("tokenizer_class") {
        Some(Value::String(class)) if !classes.contains(&class.as_str()) => {
            Err(refusal(folder, "tokenizer_class", &json!(class), "CLIPTokenizer"))
        }
        _ => Ok(()),
    }
}

/// The special tokens among a file's options, in the order of their keys.
fn special_tokens(folder: &Path, named: BTreeMap<String, Value>) -> Result<Vec<(String, Added)>, Error> {
    let mut found = Vec::new();
    for (key, value) in named {
        let lists = ["additional_special_tokens", "extra_special_tokens"].contains(&key.as_str());
        let values = match value {
            Value::Array(values) if lists => values,
            Value::Object(values) if lists => values.into_iter().map(|(_, value)| value).collect(),
            value @ (Value::String(_) | Value::Object(_)) if key.ends_with("_token") => vec![value],
            _ => continue,
        };
        for value in values {
            let token = serde_json::from_value::<Named>(value.clone()).map_err(|_error| {
                refusal(folder, &key, &value, "a token: a text, or an object with `content`")
            })?;
            found.push((key.clone(), token.into_special()));
        }
    }
    Ok(found)
}
