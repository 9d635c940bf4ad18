//! `tokenizer.json`. Its vocabulary, merges and added tokens are read; everything else in it must describe what
//! transformers' `CLIPTokenizer` does.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tokenizers::{Encoding, PostProcessor, PostProcessorWrapper};

use super::added::Added;
use super::settings::Settings;
use super::words::{Words, pair};
use super::{WORDS, refusal};
use crate::Error;

/// The parts of a `tokenizer.json` that decide about tokens. A part that a file leaves out is CLIP's.
#[derive(Deserialize)]
pub(super) struct TokenizerFile {
    model: Model,
    #[serde(default)]
    pub(super) added_tokens: Vec<Numbered>,
    #[serde(default, deserialize_with = "present")]
    normalizer: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    pre_tokenizer: Option<Value>,
    #[serde(default)]
    post_processor: Option<Value>,
    #[serde(default)]
    pub(super) padding: Option<Padding>,
}

/// An entry of `added_tokens`.
#[derive(Deserialize)]
pub(super) struct Numbered {
    pub(super) id: u32,
    #[serde(flatten)]
    pub(super) token: Added,
}

/// How a `tokenizer.json` pads; `tokenizer_config.json` goes before.
#[derive(Deserialize)]
pub(super) struct Padding {
    #[serde(default)]
    pub(super) direction: Option<String>,
    #[serde(default)]
    pub(super) pad_token: Option<String>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
    #[serde(flatten)]
    options: HashMap<String, Value>,
}

/// Older files join a pair by a space.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Joined(String),
}

/// A key that is there with the value null is another thing than a key that is not there.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl TokenizerFile {
    /// The folder's, if it has one.
    pub(super) fn from_dir(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join("tokenizer.json");
        Ok(if dmd_weights::is_file(&path) { Some(dmd_weights::read_json(&path)?) } else { None })
    }

    /// The vocabulary and its merges.
    pub(super) fn words(&self, folder: &Path) -> Result<Words, Error> {
        let merges = self.model.merges.iter().map(|merge| match merge {
            Merge::Pair(left, right) => Ok((left.clone(), right.clone())),
            Merge::Joined(line) => pair(line, folder),
        });
        let merges = merges.collect::<Result<_, Error>>()?;
        Ok(Words { merges, vocabulary: self.model.vocab.clone() })
    }

    /// Refuses a file that would make other tokens than CLIP's tokenizer.
    pub(super) fn check(&self, folder: &Path, settings: &Settings, ends: [u32; 2]) -> Result<(), Error> {
        self.check_model(folder, settings)?;
        if let Some(found) = &self.normalizer
            && *found != normalizer()
        {
            return Err(refusal(folder, "normalizer", found, "CLIP's: NFC, single spaces, lower case"));
        }
        if let Some(found) = &self.pre_tokenizer
            && !is_clip_splitting(found)
        {
            return Err(refusal(folder, "pre_tokenizer", found, "CLIP's: words, then bytes"));
        }
        match &self.post_processor {
            None => Ok(()),
            Some(found) if processed(found).is_ok_and(|ids| ids == ends) => Ok(()),
            Some(found) => {
                Err(refusal(folder, "post_processor", found, "one that adds the start and the end token"))
            }
        }
    }

    fn check_model(&self, folder: &Path, settings: &Settings) -> Result<(), Error> {
        if let Some(kind) = &self.model.kind
            && kind != "BPE"
        {
            return Err(refusal(folder, "model.type", &json!(kind), "BPE"));
        }
        let known = [
            ("dropout", vec![json!(0.0)]),
            ("unk_token", vec![json!(settings.unknown.content)]),
            ("continuing_subword_prefix", vec![json!("")]),
            ("end_of_word_suffix", vec![json!("</w>")]),
            ("fuse_unk", vec![json!(false)]),
            ("byte_fallback", vec![json!(false)]),
            ("ignore_merges", vec![json!(false)]),
        ];
        for (key, value) in &self.model.options {
            let key = key.as_str();
            let expected = known.iter().find(|(name, _)| *name == key).map(|(_, values)| values.as_slice());
            // Without its own end of a word, no word would be found in CLIP's vocabulary.
            let absent = value.is_null() && key != "end_of_word_suffix";
            if !absent && !expected.unwrap_or(&[]).contains(value) {
                let must = expected.and_then(|values| values.first()).unwrap_or(&Value::Null).to_string();
                return Err(refusal(folder, &format!("model.{key}"), value, must));
            }
        }
        Ok(())
    }
}

fn normalizer() -> Value {
    json!({
        "type": "Sequence",
        "normalizers": [
            { "type": "NFC" },
            { "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " },
            { "type": "Lowercase" },
        ],
    })
}

/// Whether a pre-tokeniser makes CLIP's words. GPT-2's pattern, applied to one of these words, finds nothing more to
/// split, except in the special tokens, which transformers 5 lists as words.
fn is_clip_splitting(found: &Value) -> bool {
    let special = format!(r"<\|startoftext\|>|<\|endoftext\|>|{WORDS}");
    let splitting = |words: &str, use_regex: bool| {
        json!({
            "type": "Sequence",
            "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": words }, "behavior": "Removed", "invert": true },
                { "type": "ByteLevel", "add_prefix_space": false, "use_regex": use_regex },
            ],
        })
    };
    let mut found = found.clone();
    if let Some(Value::Object(bytes)) = found.pointer_mut("/pretokenizers/1") {
        // About places in the text only.
        bytes.remove("trim_offsets");
        bytes.entry("use_regex").or_insert(Value::Bool(true));
    }
    [splitting(WORDS, true), splitting(WORDS, false), splitting(&special, true)].contains(&found)
}

/// What a post-processor makes of a text without tokens.
fn processed(found: &Value) -> Result<Vec<u32>, tokenizers::Error> {
    let processor: PostProcessorWrapper = serde_json::from_value(found.clone())?;
    Ok(processor.process(Encoding::default(), None, true)?.get_ids().to_vec())
}
