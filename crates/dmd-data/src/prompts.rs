use std::fs;
use std::path::{Path, PathBuf};

use dmd_core::Noise;

use crate::{Dataset, Entry, Error};

/// A text file of prompts, one per line; blank lines are left out. Enough for a distillation without pairs' pictures or
/// an adversarial term, as DMD2's first stage is.
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
    /// [`Error::Data`] when it cannot be read, is not UTF-8, or holds no prompt.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Data { path: path.to_owned(), reason };
        let text = fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let lines = text.lines().map(str::trim).zip(1..).filter(|(prompt, _)| !prompt.is_empty());
        let lines: Vec<(usize, String)> = lines.map(|(prompt, line)| (line, prompt.to_owned())).collect();
        if lines.is_empty() {
            return Err(wrong("it holds no prompt".to_owned()));
        }
        Ok(Self { path: path.to_owned(), lines })
    }
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
