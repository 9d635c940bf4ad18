//! Textual inversion: files with vectors that define a new word for prompts.

use std::path::Path;

use crate::{Error, Tensors, read};

/// Keys for the first and the second text encoder of Stable Diffusion XL, in two spellings.
const PAIRS: [[&str; 2]; 2] = [["clip_l", "clip_g"], ["text_encoders_0", "text_encoders_1"]];

/// Key of the web UI's safetensors files.
const WEB_UI: &str = "emb_params";

/// The key in the web UI's PyTorch files begins with this prefix. The rest of the key is usually `*`.
const WEB_UI_PICKLE: &str = "string_to_param";

/// A file of textual inversion: a word, and the vectors that replace it in a prompt, for one text encoder or for both
/// of Stable Diffusion XL. These formats are supported:
///
/// - diffusers' `learned_embeds.safetensors` or `.bin`: one tensor, whose name is the word
/// - the web UI's files, with the key `emb_params` (safetensors) or `string_to_param` (PyTorch); the word is the file's
///   name without its ending
/// - files for Stable Diffusion XL, with the keys `clip_l` and `clip_g`; the word is again the file's name
///
/// ```
/// use dmd_weights::{EmbeddingFile, Tensors};
/// let tensor = ("<cat-toy>".to_owned(), vec![2, 3], vec![0.0; 6]);
/// let file = EmbeddingFile::open(&Tensors::from_values("learned_embeds.safetensors", [tensor])?)?;
/// assert_eq!((file.word(), file.count(), file.widths()), ("<cat-toy>", 2, vec![3]));
/// # Ok::<(), dmd_weights::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingFile {
    word: String,
    count: usize,
    /// The vectors for each text encoder, one after another.
    vectors: Vec<Vec<f32>>,
}

impl EmbeddingFile {
    /// Reads a file of textual inversion.
    ///
    /// # Errors
    ///
    /// As [`read`] and [`Self::open`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::open(&read(path)?)
    }

    /// Makes the value from the tensors of an opened file. Where the word is the file's name, it comes from
    /// [`Tensors::path`].
    ///
    /// # Errors
    ///
    /// [`Error::Embedding`] when the tensors have none of the supported formats.
    pub fn open(tensors: &Tensors) -> Result<Self, Error> {
        let refused = |reason: String| Error::Embedding { path: tensors.path().to_owned(), reason };
        let stem = || tensors.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let keys: Vec<&str> = tensors.entries().keys().map(String::as_str).collect();
        let has = |key: &&str| keys.contains(key);
        let params: Vec<&str> = keys.iter().copied().filter(|key| key.starts_with(WEB_UI_PICKLE)).collect();
        let (names, word) = if let Some(pair) = PAIRS.iter().find(|pair| pair.iter().all(has)) {
            (pair.to_vec(), stem())
        } else if has(&WEB_UI) {
            (vec![WEB_UI], stem())
        } else if let [param] = params[..] {
            (vec![param], stem())
        } else if let [key] = keys[..] {
            let word = if PAIRS.as_flattened().contains(&key) { stem() } else { key.to_owned() };
            (vec![key], word)
        } else {
            let first = keys.first().map_or(String::new(), |key| format!(", {key:?} the first of them"));
            return Err(refused(format!(
                "it is no textual inversion, which has one tensor, emb_params, string_to_param, or clip_l and clip_g; it \
                 has {} tensors{first}",
                keys.len()
            )));
        };
        let (mut count, mut vectors) = (None, Vec::new());
        for name in names {
            let shape = tensors.entries().get(name).map_or(&[][..], |entry| &entry.shape);
            let found = match *shape {
                [width] if width > 0 => 1,
                [count, width] if count > 0 && width > 0 => count,
                _ => {
                    return Err(refused(format!(
                        "{name:?} is of shape {shape:?}, which is no list of vectors"
                    )));
                }
            };
            if let Some(other) = count.replace(found).filter(|other| *other != found) {
                return Err(refused(format!(
                    "it has {other} vectors for the first text encoder and {found} for the second"
                )));
            }
            vectors.push(tensors.floats(name)?);
        }
        Ok(Self { word, count: count.unwrap_or(0), vectors })
    }

    /// The word that the file defines.
    pub fn word(&self) -> &str {
        &self.word
    }

    /// How many vectors the word has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The width of the vectors for each text encoder: one number, or two for Stable Diffusion XL.
    pub fn widths(&self) -> Vec<usize> {
        self.vectors.iter().map(|values| values.len() / self.count.max(1)).collect()
    }

    /// The vectors for the text encoder with index `encoder`, one after another. The result is empty where the file has
    /// no vectors for that encoder.
    pub fn vectors(&self, encoder: usize) -> &[f32] {
        self.vectors.get(encoder).map_or(&[], Vec::as_slice)
    }
}
