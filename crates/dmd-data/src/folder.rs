use std::fs;
use std::path::{Path, PathBuf};

use dmd_core::Noise;
use rayon::prelude::*;

use crate::dataset::Fnv;
use crate::error::{Problem, all_or_problems};
use crate::metadata::{self, Line};
use crate::picture::{Background, header, open_picture, square};
use crate::{Dataset, Entry, Error, Example};

/// A folder of pictures with `metadata.jsonl` (an object per line) or `metadata.csv`, which give each `file_name` its
/// `text`: the `imagefolder` form of Hugging Face datasets. Other columns are not read.
///
/// Pictures are shown as [`open_picture`] has them, cropped to the centred square and resized.
#[derive(Debug, Clone)]
pub struct ImageFolder {
    path: PathBuf,
    list: PathBuf,
    size: u32,
    background: Background,
    lines: Vec<Line>,
    /// Pictures whose pixels have an opacity.
    with_alpha: usize,
}

impl ImageFolder {
    /// Reads the list and the header of every picture; pictures become `size` pixels high and wide.
    ///
    /// # Errors
    ///
    /// [`Error::Lines`] naming every line that cannot be used: without a string of `text`, without a picture, or
    /// with a file name that leaves the folder. [`Error::Data`] when there is no list, or nothing in it.
    pub fn open(folder: &Path, size: u32) -> Result<Self, Error> {
        let (list, read) = metadata::read(folder)?;
        if read.is_empty() {
            return Err(Error::Data { path: list, reason: "it lists no pictures".to_owned() });
        }
        if size == 0 {
            return Err(Error::Data { path: list, reason: "pictures of size 0 have no pixels".to_owned() });
        }
        let checked: Vec<Result<(Line, bool), Problem>> = read
            .into_par_iter()
            .map(|line| {
                let line = line?;
                let path = folder.join(&line.file);
                let problem = |reason| Problem { line: line.number, reason };
                if !path.is_file() {
                    return Err(problem(format!("there is no picture {:?}", line.file)));
                }
                let header = header(&path).map_err(|e| problem(format!("picture {:?}: {e}", line.file)))?;
                Ok((line, header.alpha))
            })
            .collect();
        let checked = all_or_problems(&list, checked)?;
        let with_alpha = checked.iter().filter(|(_, alpha)| *alpha).count();
        let lines = checked.into_iter().map(|(line, _)| line).collect();
        let background = Background::default();
        Ok(Self { path: folder.to_owned(), list, size, background, lines, with_alpha })
    }

    /// The colour behind transparent parts; white unless it is set.
    pub fn with_background(self, background: Background) -> Self {
        Self { background, ..self }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of pictures.
    #[expect(clippy::len_without_is_empty, reason = "an opened folder is never empty")]
    pub fn len(&self) -> usize {
        self.lines.len()
    }
}

impl Dataset for ImageFolder {
    fn name(&self) -> String {
        format!("the folder {:?}", self.path)
    }

    fn caption(&self, noise: &mut Noise) -> Result<String, Error> {
        Ok(self.lines[noise.below(self.lines.len())].caption.clone())
    }

    fn draw(&self, noise: &mut Noise) -> Result<Example, Error> {
        self.get(noise.below(self.lines.len()))
    }

    fn size(&self) -> Result<u32, Error> {
        Ok(self.size)
    }

    fn count(&self) -> Option<usize> {
        Some(self.lines.len())
    }

    fn get(&self, place: usize) -> Result<Example, Error> {
        let Line { file, caption, .. } = &self.lines[place];
        let picture = open_picture(&self.path.join(file), self.background)?.image;
        let image = square(&picture, self.size);
        Ok(Example { image, caption: caption.clone() })
    }

    fn entries(&self) -> Box<dyn Iterator<Item = Entry<'_>> + '_> {
        let list = &self.list;
        Box::new(self.lines.iter().map(move |line| Entry { caption: &line.caption, list, line: line.number }))
    }

    fn notes(&self) -> Vec<String> {
        self.background.note(&self.name(), self.with_alpha, self.lines.len()).into_iter().collect()
    }

    /// Of file names, lengths and captions: pictures are not read again.
    fn fingerprint(&self) -> String {
        let mut hash = Fnv::default();
        hash.add(&self.size.to_le_bytes());
        hash.add(self.background.name().as_bytes());
        for Line { file, caption, .. } in &self.lines {
            let bytes = fs::metadata(self.path.join(file)).map_or(0, |metadata| metadata.len());
            hash.add(file.to_string_lossy().as_bytes());
            hash.add(&bytes.to_le_bytes());
            hash.add(caption.as_bytes());
        }
        hash.finish()
    }
}
