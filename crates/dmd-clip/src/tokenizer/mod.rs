mod added;
mod file;
mod settings;
mod words;

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};
use tokenizers::{SplitDelimiterBehavior, TokenizerBuilder, TokenizerImpl};

use crate::error::excerpt;
use crate::{Error, Padding, Vocabulary};
use added::AddedTokens;
use file::TokenizerFile;
use settings::{Settings, Side};
use words::Words;

type Pipeline =
    TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// CLIP's words: contractions, letters, single digits, runs of anything else.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The fewest tokens of a prompt: start, a word, end.
const MIN_TOKENS: usize = 3;

/// transformers' `CLIPTokenizer`: lower-cased byte-pair encoding between a start and an end token, with the tokens
/// that were added to the vocabulary.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    pipeline: Pipeline,
    start: u32,
    end: u32,
    padding: u32,
    padding_side: Side,
    /// Of an added token that stands for several (textual inversion): all that follow the first.
    followers: HashMap<u32, Vec<u32>>,
    max_tokens: usize,
}

impl Tokenizer {
    /// Reads a diffusers `tokenizer` folder for a text encoder of `positions` positions:
    ///
    /// - the vocabulary from `vocab.json` and `merges.txt`, or from `tokenizer.json`
    /// - added tokens from `tokenizer_config.json` (`added_tokens_decoder`), `added_tokens.json` and `tokenizer.json`
    /// - special tokens, the padding's side and `model_max_length` from `tokenizer_config.json` and
    ///   `special_tokens_map.json`
    ///
    /// Prompts are padded to `model_max_length` or `positions`, whichever is less.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] when a file is missing, [`Error::Tokenizer`] when one is damaged,
    /// [`Error::TokenizerOption`] when the folder asks for tokens that this implementation does not make.
    pub fn from_dir(folder: &Path, positions: usize) -> Result<Self, Error> {
        let file = TokenizerFile::from_dir(folder)?;
        let mut settings = Settings::from_dir(folder, file.as_ref())?;
        let words = Words::from_dir(folder, file.as_ref())?;
        let added = AddedTokens::from_dir(folder, file.as_ref(), &settings)?;
        settings.adopt(&added);
        Self::assemble(folder, words, added, settings, file, positions)
    }

    /// CLIP's own tokenizer, whose vocabulary is part of this library, for a text encoder of `positions` positions:
    /// what a model without a `tokenizer` folder was trained with.
    pub fn openai(padding: Padding, positions: usize) -> Self {
        let place = Path::new("CLIP's vocabulary");
        let words = Words::of(&Vocabulary::openai());
        let settings = Settings::plain(padding.token());
        Self::assemble(place, words, AddedTokens::none(), settings, None, positions)
            .expect("CLIP's vocabulary is whole")
    }

    fn assemble(
        folder: &Path,
        words: Words,
        added: AddedTokens,
        settings: Settings,
        file: Option<TokenizerFile>,
        positions: usize,
    ) -> Result<Self, Error> {
        let damaged = |reason: String| Error::Tokenizer { path: folder.to_owned(), reason };
        let failed = |error: tokenizers::Error| damaged(error.to_string());
        let model = BPE::builder()
            .vocab_and_merges(
                words.vocabulary.into_iter().collect::<tokenizers::models::bpe::Vocab>(),
                words.merges,
            )
            .end_of_word_suffix("</w>".to_owned())
            .unk_token(settings.unknown.content.clone())
            .build()
            .map_err(failed)?;
        let mut pipeline = pipeline(model).map_err(failed)?;
        added.join(&mut pipeline, folder)?;
        settings.check_special_tokens(folder, |token| pipeline.token_to_id(token).is_some())?;
        let id = |token: &str| {
            pipeline.token_to_id(token).ok_or_else(|| damaged(format!("the vocabulary has no {token:?}")))
        };
        let (start, end) = (id(&settings.start.content)?, id(&settings.end.content)?);
        let padding = id(&settings.padding.content)?;
        pipeline.add_special_tokens(settings.special_tokens()).map_err(failed)?;
        if let Some(file) = &file {
            file.check(folder, &settings, [start, end])?;
        }
        Ok(Self {
            start,
            end,
            padding,
            padding_side: settings.padding_side,
            followers: added::followers(&pipeline),
            max_tokens: settings.max_tokens(positions),
            pipeline,
        })
    }

    /// This tokenizer with a new word that stands for `count` tokens, which get the numbers after [`Self::largest_id`]. As in
    /// diffusers they are called `word`, `word_1`, `word_2`, …, and a prompt that has the first is given them all. Capital and
    /// small letters of the word are the same.
    ///
    /// # Errors
    ///
    /// [`Error::Word`] when the word is blank, or when it or one of its tokens exists already.
    pub fn with_word(&self, word: &str, count: usize) -> Result<Self, Error> {
        let refused = |reason: String| Error::Word { word: word.to_owned(), reason };
        let first = self.largest_id().saturating_add(1);
        let (pipeline, followers) =
            added::with_word(&self.pipeline, &self.followers, word, first, count).map_err(refused)?;
        Ok(Self { pipeline, followers, ..self.clone() })
    }

    /// Tokens per prompt.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The highest number of a token: the text encoder's embedding needs a row for it.
    pub fn largest_id(&self) -> u32 {
        self.pipeline.get_vocab(true).into_values().max().unwrap_or(0)
    }

    /// The tokens of a prompt between start and end, not padded.
    ///
    /// # Errors
    ///
    /// [`Error::Prompt`] when the text cannot be split.
    pub fn tokens(&self, prompt: &str) -> Result<Vec<u32>, Error> {
        let encoding = self
            .pipeline
            .encode(prompt, false)
            .map_err(|error| Error::Prompt { prompt: excerpt(prompt), reason: error.to_string() })?;
        let mut ids = vec![self.start];
        for id in encoding.get_ids() {
            ids.push(*id);
            ids.extend(self.followers.get(id).into_iter().flatten());
        }
        ids.push(self.end);
        Ok(ids)
    }

    /// The number of a prompt's tokens, start and end included: at most [`Self::max_tokens`] can be encoded.
    ///
    /// # Errors
    ///
    /// As [`Self::tokens`].
    pub fn count(&self, prompt: &str) -> Result<usize, Error> {
        Ok(self.tokens(prompt)?.len())
    }

    /// The prompt's tokens, padded to [`Self::max_tokens`].
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`] when there are more: nothing is cut in silence.
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>, Error> {
        let mut ids = self.tokens(prompt)?;
        let (found, max) = (ids.len(), self.max_tokens);
        if found > max {
            return Err(Error::TooLong { prompt: excerpt(prompt), found, max });
        }
        ids.resize(max, self.padding);
        if self.padding_side == Side::Left {
            ids.rotate_right(max - found);
        }
        Ok(ids)
    }
}

/// CLIP's way from a text to the words that byte pairs are merged in.
fn pipeline(model: BPE) -> Result<Pipeline, tokenizers::Error> {
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
    let normalizer = Normalizers::new(vec![NFC.into(), spaces.into(), Lowercase.into()]);
    let words = SplitPattern::Regex(WORDS.to_owned());
    let split = Split::new(words, SplitDelimiterBehavior::Removed, true)?;
    let bytes = ByteLevel::new(false, true, false);
    TokenizerBuilder::new()
        .with_model(model)
        .with_normalizer(Some(normalizer.into()))
        .with_pre_tokenizer(Some(PreTokenizers::new(vec![split.into(), bytes.into()]).into()))
        .with_post_processor(None)
        .with_decoder(None)
        .build()
}

/// An option of a tokenizer's files that is not honoured.
fn refusal(folder: &Path, key: &str, value: &Value, must: impl ToString) -> Error {
    Error::TokenizerOption {
        path: folder.to_owned(),
        key: key.to_owned(),
        value: excerpt(&value.to_string()),
        must: must.to_string(),
    }
}
