use std::collections::HashMap;
use std::path::Path;

use super::file::TokenizerFile;
use crate::{Error, Vocabulary};

/// A byte-pair vocabulary and its merges, in order.
pub(super) struct Words {
    pub(super) vocabulary: HashMap<String, u32>,
    pub(super) merges: Vec<(String, String)>,
}

impl Words {
    pub(super) fn of(vocabulary: &Vocabulary) -> Self {
        let tokens = vocabulary.tokens().iter().cloned().zip(0..).collect();
        Self { vocabulary: tokens, merges: vocabulary.merges().to_vec() }
    }

    /// Reads `vocab.json` and `merges.txt`, or `tokenizer.json` where there are none. Where both are there, they say
    /// the same.
    pub(super) fn from_dir(folder: &Path, file: Option<&TokenizerFile>) -> Result<Self, Error> {
        let whole = file.map(|file| file.words(folder)).transpose()?;
        if !dmd_weights::is_file(&folder.join("vocab.json"))
            && let Some(whole) = whole
        {
            return Ok(whole);
        }
        let words = Self::from_two_files(folder)?;
        if let Some(whole) = &whole {
            words.compare(whole, folder)?;
        }
        Ok(words)
    }

    fn from_two_files(folder: &Path) -> Result<Self, Error> {
        let vocabulary = dmd_weights::read_json(&folder.join("vocab.json"))?;
        let path = folder.join("merges.txt");
        let text =
            dmd_weights::read_to_string(&path).map_err(|source| dmd_weights::Error::Read { path, source })?;
        let lines = text.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty());
        Ok(Self { vocabulary, merges: lines.map(|line| pair(line, folder)).collect::<Result<_, Error>>()? })
    }

    /// Two descriptions of one vocabulary: which one would count is not for us to choose.
    fn compare(&self, whole: &Self, folder: &Path) -> Result<(), Error> {
        let differs = |what: String| {
            let reason = format!(
                "vocab.json or merges.txt and tokenizer.json disagree about {what}; keep one of them"
            );
            Err(Error::Tokenizer { path: folder.to_owned(), reason })
        };
        let (ours, theirs) = (&self.vocabulary, &whole.vocabulary);
        let token = ours
            .iter()
            .find(|(token, id)| theirs.get(*token) != Some(id))
            .or_else(|| theirs.iter().find(|(token, _)| !ours.contains_key(*token)));
        if let Some((token, _)) = token {
            return differs(format!("the token {token:?}"));
        }
        let merge = self.merges.iter().zip(&whole.merges).position(|(ours, theirs)| ours != theirs);
        match merge {
            Some(place) => differs(format!("merge {place}, {:?}", self.merges[place])),
            None if self.merges.len() != whole.merges.len() => differs("the number of merges".to_owned()),
            None => Ok(()),
        }
    }
}

/// The two halves of a merge that are joined by a space.
pub(super) fn pair(line: &str, folder: &Path) -> Result<(String, String), Error> {
    match line.split_once(' ') {
        Some((left, right)) => Ok((left.to_owned(), right.trim().to_owned())),
        None => {
            Err(Error::Tokenizer { path: folder.to_owned(), reason: format!("merge {line:?} is not a pair") })
        }
    }
}
