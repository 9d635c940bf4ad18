use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};
use tokenizers::{SplitDelimiterBehavior, TokenizerBuilder, TokenizerImpl};

use crate::Error;

type Pipeline =
    TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// CLIP's words: contractions, letters, single digits, runs of anything else.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// transformers' `CLIPTokenizer`: lower-cased byte-pair encoding between a start and an end token.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    pipeline: Pipeline,
    start: u32,
    end: u32,
    padding: u32,
    max_tokens: usize,
}

#[derive(Deserialize, Default)]
struct TokenizerConfig {
    #[serde(default)]
    pad_token: Option<Value>,
}

impl Tokenizer {
    /// Reads `vocab.json` and `merges.txt` of a diffusers `tokenizer` folder, or the same two out of
    /// its `tokenizer.json` where there are no such files; prompts are padded to
    /// `max_tokens` with the padding token that `tokenizer_config.json` or
    /// `special_tokens_map.json` names, the end token if neither does.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] when a file is missing, [`Error::Tokenizer`] when one is damaged.
    pub fn from_dir(folder: &Path, max_tokens: usize) -> Result<Self, Error> {
        let damaged = |reason: String| Error::Tokenizer { path: folder.to_owned(), reason };
        let Words { vocabulary, merges } = Words::from_dir(folder)?;
        let id = |token: &str| {
            let found = vocabulary.get(token).copied();
            found.ok_or_else(|| damaged(format!("the vocabulary has no {token:?}")))
        };
        let (start, end) = (id("<|startoftext|>")?, id("<|endoftext|>")?);
        let padding = match pad_token(folder)? {
            Some(token) => id(&token)?,
            None => end,
        };
        let failed = |error: tokenizers::Error| damaged(error.to_string());
        let model = BPE::builder()
            .vocab_and_merges(vocabulary.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
            .end_of_word_suffix("</w>".to_owned())
            .unk_token("<|endoftext|>".to_owned())
            .build()
            .map_err(failed)?;
        let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ").map_err(failed)?;
        let normalizer = Normalizers::new(vec![NFC.into(), spaces.into(), Lowercase.into()]);
        let words = SplitPattern::Regex(WORDS.to_owned());
        let split = Split::new(words, SplitDelimiterBehavior::Removed, true).map_err(failed)?;
        let bytes = ByteLevel::new(false, true, false);
        let mut pipeline: Pipeline = TokenizerBuilder::new()
            .with_model(model)
            .with_normalizer(Some(normalizer.into()))
            .with_pre_tokenizer(Some(PreTokenizers::new(vec![split.into(), bytes.into()]).into()))
            .with_post_processor(None)
            .with_decoder(None)
            .build()
            .map_err(failed)?;
        let special = ["<|startoftext|>", "<|endoftext|>"].map(|t| tokenizers::AddedToken::from(t, true));
        pipeline.add_special_tokens(special).map_err(failed)?;
        Ok(Self { pipeline, start, end, padding, max_tokens })
    }

    /// Tokens per prompt.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The largest number of a token: a text encoder needs a row for it.
    pub fn largest_id(&self) -> u32 {
        self.pipeline.get_vocab(true).into_values().max().unwrap_or(0)
    }

    /// The tokens of a prompt between start and end, not padded.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] when the text cannot be split.
    pub fn tokens(&self, prompt: &str) -> Result<Vec<u32>, Error> {
        let encoding = self
            .pipeline
            .encode(prompt, false)
            .map_err(|error| Error::Tokenizer { path: prompt.into(), reason: error.to_string() })?;
        let mut ids = vec![self.start];
        ids.extend(encoding.get_ids());
        ids.push(self.end);
        Ok(ids)
    }

    /// The prompt's tokens, padded to [`Self::max_tokens`].
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`] when there are more: nothing is cut in silence.
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>, Error> {
        let mut ids = self.tokens(prompt)?;
        if ids.len() > self.max_tokens {
            return Err(Error::TooLong { prompt: prompt.to_owned(), found: ids.len(), max: self.max_tokens });
        }
        ids.resize(self.max_tokens, self.padding);
        Ok(ids)
    }
}

/// A byte-pair vocabulary and its merges, in order.
struct Words {
    vocabulary: HashMap<String, u32>,
    merges: Vec<(String, String)>,
}

/// The part of a `tokenizer.json` that is read.
#[derive(Deserialize)]
struct TokenizerFile {
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// Older files join a pair by a space.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Joined(String),
}

impl Words {
    fn from_dir(folder: &Path) -> Result<Self, Error> {
        let damaged = |reason: String| Error::Tokenizer { path: folder.to_owned(), reason };
        let pair = |line: &str| {
            let pair = line.split_once(' ');
            let (left, right) = pair.ok_or_else(|| damaged(format!("merge {line:?} is not a pair")))?;
            Ok((left.to_owned(), right.trim().to_owned()))
        };
        let whole = folder.join("tokenizer.json");
        if !folder.join("vocab.json").is_file() && whole.is_file() {
            let file: TokenizerFile = dmd_weights::read_json(&whole)?;
            let merges = file.model.merges.into_iter().map(|merge| match merge {
                Merge::Pair(left, right) => Ok((left, right)),
                Merge::Joined(line) => pair(&line),
            });
            return Ok(Self { merges: merges.collect::<Result<_, Error>>()?, vocabulary: file.model.vocab });
        }
        let vocabulary = dmd_weights::read_json(&folder.join("vocab.json"))?;
        let path = folder.join("merges.txt");
        let text =
            std::fs::read_to_string(&path).map_err(|source| dmd_weights::Error::Read { path, source })?;
        let lines = text.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty());
        Ok(Self { vocabulary, merges: lines.map(pair).collect::<Result<_, Error>>()? })
    }
}

/// The padding token that the folder names, if it does.
fn pad_token(folder: &Path) -> Result<Option<String>, Error> {
    for name in ["special_tokens_map.json", "tokenizer_config.json"] {
        let path = folder.join(name);
        if !path.is_file() {
            continue;
        }
        let config: TokenizerConfig = dmd_weights::read_json(&path)?;
        match config.pad_token {
            Some(Value::String(token)) => return Ok(Some(token)),
            Some(Value::Object(token)) => {
                if let Some(Value::String(content)) = token.get("content") {
                    return Ok(Some(content.clone()));
                }
            }
            _ => {}
        }
    }
    Ok(None)
}
