//! Where captioned pictures come from: the procedural shapes, or a folder of one's own.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use dmd_core::Noise;
use image::imageops::FilterType;
use image::{ImageReader, RgbImage};
use serde::Deserialize;

use crate::Error;
use crate::shapes::{SIZE, Scene, Split};

/// A picture with its caption.
#[derive(Debug, Clone)]
pub struct Example {
    /// The picture, square.
    pub image: RgbImage,
    /// What it shows.
    pub caption: String,
}

/// A source of captioned pictures.
#[derive(Debug, Clone)]
pub enum Source {
    /// The procedural shapes (see [`crate::shapes`]), endless.
    Shapes,
    /// A folder in the Hugging Face `imagefolder` form.
    Folder(ImageFolder),
}

/// A folder of pictures with `metadata.jsonl`, one object per line with `file_name` and `text`:
/// the `imagefolder` form of Hugging Face datasets.
#[derive(Debug, Clone)]
pub struct ImageFolder {
    size: u32,
    entries: Vec<(PathBuf, String)>,
}

#[derive(Deserialize)]
struct Line {
    file_name: String,
    text: String,
}

impl ImageFolder {
    /// Reads `metadata.jsonl` and checks that every picture is there. Pictures are later cropped
    /// to the centred square and resized to `size`.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] naming the line or file that cannot be used; a file name that leaves the
    /// folder is refused.
    pub fn open(folder: &Path, size: u32) -> Result<Self, Error> {
        let metadata = folder.join("metadata.jsonl");
        let wrong = |path: &Path, reason: String| Error::Data { path: path.to_owned(), reason };
        let text = fs::read_to_string(&metadata).map_err(|e| wrong(&metadata, e.to_string()))?;
        let mut entries = Vec::new();
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let at = |reason: String| wrong(&metadata, format!("line {}: {reason}", number + 1));
            let line: Line = serde_json::from_str(line).map_err(|e| at(e.to_string()))?;
            let relative = Path::new(&line.file_name);
            let inside = |c| matches!(c, std::path::Component::Normal(_) | std::path::Component::CurDir);
            if !relative.components().all(inside) {
                return Err(at(format!("file name {:?} leaves the folder", line.file_name)));
            }
            let path = folder.join(relative);
            if !path.is_file() {
                return Err(at(format!("there is no picture {:?}", line.file_name)));
            }
            entries.push((path, line.text));
        }
        if entries.is_empty() {
            return Err(wrong(&metadata, "it lists no pictures".to_owned()));
        }
        Ok(Self { size, entries })
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no picture; never true of an opened folder.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The picture at an index with its caption.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] when the file is not a picture.
    pub fn get(&self, index: usize) -> Result<Example, Error> {
        let (path, caption) = &self.entries[index];
        let wrong = |reason: String| Error::Data { path: path.clone(), reason };
        let reader = ImageReader::open(path).map_err(|e| wrong(e.to_string()))?;
        let reader = reader.with_guessed_format().map_err(|e| wrong(e.to_string()))?;
        let picture = reader.decode().map_err(|e| wrong(e.to_string()))?;
        let (width, height) = (picture.width(), picture.height());
        let side = width.min(height);
        let square = picture.crop_imm((width - side) / 2, (height - side) / 2, side, side);
        let image = square.resize_exact(self.size, self.size, FilterType::Lanczos3).to_rgb8();
        Ok(Example { image, caption: caption.clone() })
    }

    /// Every caption.
    pub fn captions(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(_, caption)| caption.as_str())
    }
}

impl Source {
    /// A random example of the training split.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] when a picture of a folder cannot be read.
    pub fn draw(&self, noise: &mut Noise) -> Result<Example, Error> {
        match self {
            Self::Shapes => {
                let scene = Scene::draw(Split::Train, noise);
                Ok(Example { image: scene.render(), caption: scene.caption })
            }
            Self::Folder(folder) => folder.get(noise.below(folder.len())),
        }
    }

    /// The caption of a random example of the training split.
    ///
    /// # Errors
    ///
    /// None today; sources that read captions lazily may fail.
    pub fn caption(&self, noise: &mut Noise) -> Result<String, Error> {
        match self {
            Self::Shapes => Ok(Scene::draw(Split::Train, noise).caption),
            Self::Folder(folder) => Ok(folder.entries[noise.below(folder.len())].1.clone()),
        }
    }

    /// Height and width of the pictures.
    pub fn size(&self) -> u32 {
        match self {
            Self::Shapes => SIZE,
            Self::Folder(folder) => folder.size,
        }
    }
}

/// Pictures as `[batch, 3, height, width]` in [−1, 1].
///
/// # Panics
///
/// If the pictures differ in size, or there is none.
pub fn to_tensor(images: &[RgbImage], device: &Device) -> Tensor<4> {
    let (width, height) = images[0].dimensions();
    let (width, height) = (width as usize, height as usize);
    let mut values = Vec::with_capacity(images.len() * 3 * height * width);
    for image in images {
        assert_eq!(
            (image.width() as usize, image.height() as usize),
            (width, height),
            "pictures of one batch have one size"
        );
        for channel in 0..3 {
            values.extend(image.pixels().map(|p| f32::from(p.0[channel]) / 127.5 - 1.0));
        }
    }
    Tensor::from_data(TensorData::new(values, [images.len(), 3, height, width]), device)
}
