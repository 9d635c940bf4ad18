use std::collections::BTreeMap;
use std::path::Path;

use dmd_weights::{write_atomic, write_json};

use crate::Error;

/// A byte-pair vocabulary in CLIP's form: every byte as a token, every byte that ends a word, one
/// token per merge, then `<|startoftext|>` and `<|endoftext|>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    tokens: Vec<String>,
    merges: Vec<(String, String)>,
}

/// The printable character that stands for each byte (GPT-2's table, which CLIP uses): printable
/// Latin-1 stands for itself, the rest for characters from U+0100 on.
fn byte_characters() -> Vec<char> {
    let plain = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    (0..256)
        .map(|byte| {
            if plain(byte) {
                char::from_u32(byte).unwrap_or(' ')
            } else {
                next += 1;
                char::from_u32(next - 1).unwrap_or(' ')
            }
        })
        .collect()
}

impl Vocabulary {
    /// A vocabulary in which each of `words` (lower-case ASCII) is a single token, and anything
    /// else can still be spelled byte by byte.
    pub fn for_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut characters = byte_characters();
        // CLIP lists the printable ones first.
        characters.sort_by_key(|c| (*c as u32 > 255, *c));
        let mut tokens: Vec<String> = characters.iter().map(char::to_string).collect();
        tokens.extend(characters.iter().map(|c| format!("{c}</w>")));
        let mut vocabulary = Self { tokens, merges: Vec::new() };
        for word in words {
            vocabulary.add(word);
        }
        vocabulary.tokens.push("<|startoftext|>".to_owned());
        vocabulary.tokens.push("<|endoftext|>".to_owned());
        vocabulary
    }

    /// Applies the merges known so far, then merges what is left from the front.
    fn add(&mut self, word: &str) {
        let mut parts: Vec<String> = word.chars().map(|c| c.to_string()).collect();
        if let Some(last) = parts.last_mut() {
            last.push_str("</w>");
        }
        for (left, right) in &self.merges {
            let mut i = 0;
            while i + 1 < parts.len() {
                if parts[i] == *left && parts[i + 1] == *right {
                    let joined = parts.remove(i + 1);
                    parts[i].push_str(&joined);
                }
                i += 1;
            }
        }
        while parts.len() > 1 {
            let right = parts.remove(1);
            let joined = format!("{}{right}", parts[0]);
            self.merges.push((parts[0].clone(), right));
            if !self.tokens.contains(&joined) {
                self.tokens.push(joined.clone());
            }
            parts[0] = joined;
        }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token; never true.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Writes a diffusers `tokenizer` folder: `vocab.json`, `merges.txt`, `tokenizer_config.json`
    /// and `special_tokens_map.json`, for prompts of at most `max_tokens`.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path, max_tokens: usize) -> Result<(), Error> {
        let by_token: BTreeMap<&String, usize> = self.tokens.iter().zip(0..).collect();
        write_json(&folder.join("vocab.json"), &by_token)?;
        let mut merges = "#version: 0.2\n".to_owned();
        for (left, right) in &self.merges {
            merges.push_str(&format!("{left} {right}\n"));
        }
        write_atomic(&folder.join("merges.txt"), merges.as_bytes())?;
        let special = serde_json::json!({
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
        });
        write_json(&folder.join("special_tokens_map.json"), &special)?;
        let mut config = special;
        config["tokenizer_class"] = "CLIPTokenizer".into();
        config["model_max_length"] = max_tokens.into();
        config["do_lower_case"] = true.into();
        Ok(write_json(&folder.join("tokenizer_config.json"), &config)?)
    }
}
