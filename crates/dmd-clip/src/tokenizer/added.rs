//! Tokens that were added to a vocabulary: words taught by textual inversion, special tokens. They are found in the
//! text before it is split into words.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::Deserialize;
use tokenizers::AddedToken;

use super::Pipeline;
use super::file::TokenizerFile;
use super::settings::Settings;
use crate::Error;

/// An added token as transformers writes it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Added {
    pub(super) content: String,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    /// Unless a file says so, ordinary tokens are compared with the normalised text, special ones with the text.
    #[serde(default)]
    pub(super) normalized: Option<bool>,
    #[serde(default)]
    pub(super) special: bool,
}

impl Added {
    pub(super) fn special(content: String) -> Self {
        Self { content, single_word: false, lstrip: false, rstrip: false, normalized: None, special: true }
    }

    pub(super) fn into_token(self) -> AddedToken {
        AddedToken::from(self.content, self.special)
            .normalized(self.normalized.unwrap_or(!self.special))
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
    }
}

/// A folder's added tokens by their numbers.
pub(super) struct AddedTokens(BTreeMap<u32, Added>);

impl AddedTokens {
    pub(super) fn none() -> Self {
        Self(BTreeMap::new())
    }

    /// Reads `added_tokens.json`, then `tokenizer.json`, then `added_tokens_decoder`: the later know more of a token.
    pub(super) fn from_dir(
        folder: &Path,
        file: Option<&TokenizerFile>,
        settings: &Settings,
    ) -> Result<Self, Error> {
        let mut tokens = BTreeMap::new();
        let path = folder.join("added_tokens.json");
        if dmd_weights::is_file(&path) {
            let special: Vec<String> =
                settings.special_tokens().into_iter().map(|token| token.content).collect();
            for (content, id) in dmd_weights::read_json::<BTreeMap<String, u32>>(&path)? {
                let is_special = special.contains(&content);
                tokens.insert(id, Added { special: is_special, ..Added::special(content) });
            }
        }
        let of_file = file.into_iter().flat_map(|file| &file.added_tokens);
        let of_file = of_file.map(|entry| (entry.id, &entry.token));
        for (id, token) in of_file.chain(settings.added.iter().map(|(id, token)| (*id, token))) {
            match tokens.insert(id, token.clone()) {
                Some(other) if other.content != token.content => {
                    let reason = format!(
                        "two added tokens have the number {id}: {:?} and {:?}",
                        other.content, token.content
                    );
                    return Err(Error::Tokenizer { path: folder.to_owned(), reason });
                }
                _ => {}
            }
        }
        Ok(Self(tokens))
    }

    /// The added token of a text.
    pub(super) fn get(&self, content: &str) -> Option<&Added> {
        self.0.values().find(|token| token.content == content)
    }

    /// Adds the tokens to a pipeline, which gives new ones the next free number.
    pub(super) fn join(self, pipeline: &mut Pipeline, folder: &Path) -> Result<(), Error> {
        let damaged = |reason: String| Error::Tokenizer { path: folder.to_owned(), reason };
        let numbers: Vec<(u32, String)> =
            self.0.iter().map(|(id, token)| (*id, token.content.clone())).collect();
        let tokens = self.0.into_values().map(Added::into_token);
        pipeline.add_tokens(tokens).map_err(|error| damaged(error.to_string()))?;
        for (id, content) in numbers {
            let found = pipeline.token_to_id(&content);
            if found != Some(id) {
                let place = found.map_or("none".to_owned(), |found| found.to_string());
                return Err(damaged(format!(
                    "the added token {content:?} has the number {id}, but the next free number is {place}: numbers \
                     of added tokens go on where the vocabulary ends"
                )));
            }
        }
        Ok(())
    }
}

/// For every added token `T`, the numbers of `T_1`, `T_2`, …: a word that textual inversion taught with several
/// vectors. diffusers writes them all where a prompt has the first.
pub(super) fn followers(pipeline: &Pipeline) -> HashMap<u32, Vec<u32>> {
    let added = pipeline.get_added_vocabulary().get_vocab();
    let of = |token: &str| -> Vec<u32> {
        (1..).map_while(|i| added.get(&format!("{token}_{i}")).copied()).collect()
    };
    added.iter().map(|(token, id)| (*id, of(token))).filter(|(_, ids)| !ids.is_empty()).collect()
}

/// A pipeline with a word of `count` tokens whose numbers begin with `first`, and then the followers of all words; otherwise
/// why the word cannot be added.
pub(super) fn with_word(
    pipeline: &Pipeline,
    known: &HashMap<u32, Vec<u32>>,
    word: &str,
    first: u32,
    count: usize,
) -> Result<(Pipeline, HashMap<u32, Vec<u32>>), String> {
    if word.trim().is_empty() {
        return Err("it is blank".to_owned());
    }
    let names: Vec<String> =
        (0..count).map(|i| if i == 0 { word.to_owned() } else { format!("{word}_{i}") }).collect();
    // Prompts are compared in small letters.
    let added = pipeline.get_added_vocabulary().get_vocab();
    let added: HashSet<String> = added.keys().map(|token| token.to_lowercase()).collect();
    let exists =
        |name: &&String| pipeline.token_to_id(name).is_some() || added.contains(&name.to_lowercase());
    if let Some(name) = names.iter().find(exists) {
        return Err(format!("its vocabulary has the token {name:?} already; choose another word"));
    }
    let tokens =
        names.iter().map(|name| Added { special: false, ..Added::special(name.clone()) }.into_token());
    let mut pipeline = pipeline.clone();
    pipeline.add_tokens(tokens).map_err(|error| error.to_string())?;
    let mut numbers = first..;
    if names.iter().any(|name| pipeline.token_to_id(name) != numbers.next()) {
        return Err(format!("the numbers of its vocabulary have gaps below {first}"));
    }
    let mut expected = known.clone();
    if count > 1 {
        expected.insert(first, (first..).skip(1).take(count - 1).collect());
    }
    let followers = followers(&pipeline);
    if followers != expected {
        return Err("it and a word that was added before it differ by a number at the end alone, which is how the tokens \
                    of one word are told apart; choose another word"
            .to_owned());
    }
    Ok((pipeline, followers))
}
