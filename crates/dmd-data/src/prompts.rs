use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use dmd_core::Noise;
use serde_json::{Map, Value};

use crate::error::{Problem, all_or_problems};
use crate::{Dataset, Entry, Error};

/// Names under which the lines of a `.jsonl` file usually have their prompt.
const KEYS: [&str; 3] = ["prompt", "text", "caption"];

/// A text file of prompts, one per line, or a `.jsonl` file with an object per line; blank lines are left out. Enough for
/// a distillation without real pictures, as DMD2's first stage is.
#[derive(Debug, Clone)]
pub struct Prompts {
    path: PathBuf,
    /// Line numbers, counted from 1, and prompts.
    lines: Vec<(usize, String)>,
}

impl Prompts {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] when it cannot be read, is not UTF-8, or holds no prompt; [`Error::Lines`] naming every line of a
    /// `.jsonl` file without a string of one of the names `prompt`, `text` and `caption`, the first that it has.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with_key(path, None)
    }

    /// [`Self::open`] of a `.jsonl` file that has its prompts under another name.
    ///
    /// # Errors
    ///
    /// As [`Self::open`]; [`Error::Data`] where the file is no `.jsonl`.
    pub fn open_with_key(path: &Path, key: Option<&str>) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Data { path: path.to_owned(), reason };
        let text = fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        let is_jsonl = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"));
        if let (Some(key), false) = (key, is_jsonl) {
            return Err(wrong(format!("its name does not end in .jsonl, so that it has no key {key:?}")));
        }
        let keys = is_jsonl.then(|| key.as_ref().map_or(&KEYS[..], std::slice::from_ref));
        Self::parse(path, &text, keys)
    }

    /// Prompts from elsewhere than a file, one per line; `name` is what errors call their place.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] when the text cannot be read, is not UTF-8, or holds no prompt.
    pub fn from_reader(mut reader: impl Read, name: &str) -> Result<Self, Error> {
        let mut text = String::new();
        let wrong = |reason: String| Error::Data { path: name.into(), reason };
        reader.read_to_string(&mut text).map_err(|e| wrong(e.to_string()))?;
        Self::parse(name.as_ref(), &text, None)
    }

    /// The prompts, in their order.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(|(_, prompt)| prompt.as_str())
    }

    /// Lines of text, or of JSON with the prompt under one of some keys.
    fn parse(path: &Path, text: &str, keys: Option<&[&str]>) -> Result<Self, Error> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let read = text.lines().map(str::trim).zip(1..).filter(|(text, _)| !text.is_empty());
        let read = read.map(|(text, line)| {
            let prompt = keys.map_or_else(|| Ok(text.to_owned()), |keys| from_json(text.as_bytes(), keys));
            let prompt = prompt.map_err(|reason| Problem { line, reason })?;
            Ok((line, prompt.trim().to_owned()))
        });
        let mut lines = all_or_problems(path, read)?;
        lines.retain(|(_, prompt)| !prompt.is_empty());
        if lines.is_empty() {
            return Err(Error::Data { path: path.to_owned(), reason: "it holds no prompt".to_owned() });
        }
        Ok(Self { path: path.to_owned(), lines })
    }
}

/// The caption of a JSON object: its string of the first of `keys` that it has.
fn from_json(text: &[u8], keys: &[&str]) -> Result<String, String> {
    let object: Map<String, Value> = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let found = keys.iter().find_map(|key| Some((key, object.get(*key)?)));
    match found {
        Some((_, Value::String(caption))) => Ok(caption.clone()),
        Some((key, other)) => Err(format!("{key:?} is {other}, not a string")),
        None => {
            let names: Vec<&str> = object.keys().map(String::as_str).collect();
            Err(format!("it has none of {keys:?}, but {names:?}"))
        }
    }
}

/// The caption of a JSON object under one of the usual names.
pub(crate) fn caption_of(text: &[u8]) -> Result<String, String> {
    from_json(text, &["caption", "text", "prompt"])
}

impl Dataset for Prompts {
    fn name(&self) -> String {
        format!("the list of prompts {:?}", self.path)
    }

    fn caption(&self, noise: &mut Noise) -> Result<String, Error> {
        Ok(self.lines[noise.below(self.lines.len())].1.clone())
    }

    fn entries(&self) -> Box<dyn Iterator<Item = Entry<'_>> + '_> {
        let list = &self.path;
        Box::new(self.lines.iter().map(move |(line, caption)| Entry { caption, list, line: *line }))
    }
}
