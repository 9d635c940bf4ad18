use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use dmd_weights::{write_atomic, write_json};

use flate2::read::GzDecoder;

use crate::Error;

/// The merges of OpenAI's CLIP, one pair a line: the first 48 894 of `bpe_simple_vocab_16e6.txt` (MIT licence), of which
/// the published models use no more.
const OPENAI_MERGES: &[u8] = include_bytes!("../data/merges.txt.gz");

/// What fills a prompt up to the text encoder's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// The end token: Stable Diffusion 1.x, and SDXL's first text encoder.
    End,
    /// "!", whose number is 0: Stable Diffusion 2.x, and SDXL's second text encoder. As in diffusers, a "!" that is
    /// typed then is the padding token too.
    ExclamationMark,
}

impl Padding {
    pub(crate) fn token(self) -> &'static str {
        match self {
            Self::End => "<|endoftext|>",
            Self::ExclamationMark => "!",
        }
    }
}

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

/// Every byte as a token, then every byte that ends a word.
fn bytes() -> Vec<String> {
    let mut characters = byte_characters();
    // CLIP lists the printable ones first.
    characters.sort_by_key(|c| (*c as u32 > 255, *c));
    let mut tokens: Vec<String> = characters.iter().map(char::to_string).collect();
    tokens.extend(characters.iter().map(|c| format!("{c}</w>")));
    tokens
}

impl Vocabulary {
    /// A vocabulary in which each of `words` (lower-case ASCII) is a single token, and anything
    /// else can still be spelled byte by byte.
    pub fn for_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut vocabulary = Self { tokens: bytes(), merges: Vec::new() };
        for word in words {
            vocabulary.add(word);
        }
        vocabulary.with_ends()
    }

    /// The vocabulary of OpenAI's CLIP: 49 408 tokens. Every published Stable Diffusion has it.
    pub fn openai() -> Self {
        let mut text = String::new();
        GzDecoder::new(OPENAI_MERGES).read_to_string(&mut text).expect("the library's own file is whole");
        let pair = |line: &str| line.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned()));
        let merges: Vec<(String, String)> = text.lines().filter_map(pair).collect();
        let mut tokens = bytes();
        tokens.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
        Self { tokens, merges }.with_ends()
    }

    fn with_ends(mut self) -> Self {
        self.tokens.extend(["<|startoftext|>", "<|endoftext|>"].map(str::to_owned));
        self
    }

    /// The tokens, each at the place of its number.
    pub(crate) fn tokens(&self) -> &[String] {
        &self.tokens
    }

    pub(crate) fn merges(&self) -> &[(String, String)] {
        &self.merges
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
        self.save_padded(folder, max_tokens, Padding::End)
    }

    /// [`Self::save`] with a padding token.
    ///
    /// # Errors
    ///
    /// As [`Self::save`].
    pub fn save_padded(&self, folder: &Path, max_tokens: usize, padding: Padding) -> Result<(), Error> {
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
            "pad_token": padding.token(),
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
