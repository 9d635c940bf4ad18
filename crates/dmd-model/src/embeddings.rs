//! Words of textual inversion, which are added to a model's tokenizers and text encoders when the model is opened.

use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use dmd_clip::{TextConfig, Tokenizer};
use dmd_weights::EmbeddingFile;

use crate::{Error, OpenOptions};

/// A file of textual inversion, and its word in prompts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingOption {
    /// The file.
    pub path: PathBuf,
    /// A word that replaces the file's own ([`EmbeddingFile`]).
    pub word: Option<String>,
}

/// The additional words of a model that is being opened.
pub(crate) struct Embeddings(Vec<Word>);

struct Word {
    path: PathBuf,
    word: String,
    file: EmbeddingFile,
}

impl Embeddings {
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    /// Reads the files, and compares their widths with those of the model's text encoders.
    pub(crate) fn open(options: &OpenOptions, encoders: &[&TextConfig]) -> Result<Self, Error> {
        let taken: Vec<usize> = encoders.iter().map(|config| config.hidden_size).collect();
        let open = |option: &EmbeddingOption| {
            let file = EmbeddingFile::read(&option.path)?;
            let path = option.path.clone();
            if file.widths() != taken {
                let reason = format!(
                    "its vectors are {} wide, where this model takes {}",
                    described(&file.widths()),
                    described(&taken)
                );
                return Err(dmd_weights::Error::Embedding { path, reason }.into());
            }
            let word = option.word.as_deref().unwrap_or(file.word()).to_owned();
            Ok(Word { path, word, file })
        };
        Ok(Self(options.embeddings.iter().map(open).collect::<Result<_, Error>>()?))
    }

    /// A copy of the tokenizer with the words added.
    pub(crate) fn taught(&self, tokenizer: &Tokenizer) -> Result<Tokenizer, Error> {
        let add = |tokenizer: Tokenizer, word: &Word| tokenizer.with_word(&word.word, word.file.count());
        Ok(self.0.iter().try_fold(tokenizer.clone(), add)?)
    }

    /// The vectors for the text encoder with index `encoder`, and the token id of the first of them, which is the next
    /// one after those of `tokenizer`. `tokenizer` must not have the words yet. The result is `None` if there are no
    /// words.
    pub(crate) fn rows(
        &self,
        encoder: usize,
        tokenizer: &Tokenizer,
        device: &Device,
    ) -> Option<(usize, Tensor<2>)> {
        let count: usize = self.0.iter().map(|word| word.file.count()).sum();
        let values: Vec<f32> = self.0.iter().flat_map(|word| word.file.vectors(encoder)).copied().collect();
        let width = values.len().checked_div(count)?;
        let rows = Tensor::from_data(TensorData::new(values, [count, width]), device);
        Some((tokenizer.largest_id() as usize + 1, rows))
    }

    /// Reports each file's word and number of vectors, one sentence each.
    pub(crate) fn report(&self) -> Vec<String> {
        let sentence = |Word { path, word, file }: &Word| {
            let vectors = if file.count() == 1 { "vector" } else { "vectors" };
            format!("{}: the word {word:?}, {} {vectors}", path.display(), file.count())
        };
        self.0.iter().map(sentence).collect()
    }
}

/// Formats the widths of text encoders, with the family that has them.
fn described(widths: &[usize]) -> String {
    let numbers = widths.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    match widths {
        [768] => format!("{numbers} (Stable Diffusion 1.x)"),
        [1024] => format!("{numbers} (Stable Diffusion 2.x)"),
        [_, _] => format!("{numbers} (Stable Diffusion XL)"),
        _ => numbers,
    }
}

#[cfg(test)]
mod tests {
    use super::described;

    #[test]
    fn widths_are_said_with_their_family() {
        assert_eq!(described(&[768]), "768 (Stable Diffusion 1.x)");
        assert_eq!(described(&[1024]), "1024 (Stable Diffusion 2.x)");
        assert_eq!(described(&[768, 1280]), "768 and 1280 (Stable Diffusion XL)");
        assert_eq!(described(&[24]), "24");
    }
}
