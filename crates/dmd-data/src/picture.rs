//! Picture files, read as every viewer shows them, and written.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::Path;

use image::imageops::{FilterType, crop_imm, resize};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Rgb, RgbImage, imageops};
use serde::{Deserialize, Serialize};

use crate::Error;

/// The colour behind the transparent parts of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "a colour's name says it all")]
pub enum Background {
    #[default]
    White,
    Grey,
    Black,
}

impl Background {
    /// Red, green and blue, 0 to 255.
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Self::White => [255; 3],
            Self::Grey => [128; 3],
            Self::Black => [0; 3],
        }
    }

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::White => "white",
            Self::Grey => "grey",
            Self::Black => "black",
        }
    }

    /// What a user should know where some of a data set's pictures have an opacity.
    pub(crate) fn note(self, dataset: &str, with_alpha: usize, count: usize) -> Option<String> {
        let background = self.name();
        (with_alpha > 0).then(|| {
            format!(
                "{with_alpha} of {count} pictures in {dataset} have an opacity; transparent parts are shown on {background}"
            )
        })
    }
}

/// A picture as it was read from a file.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The picture, upright, without transparency.
    pub image: RgbImage,
    /// Whether a part of it was transparent and now shows the background.
    pub transparent: bool,
}

/// What a picture's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Whether pixels have an opacity.
    pub(crate) alpha: bool,
}

/// What is read of a picture: a whole file, or a part of one.
pub(crate) trait Bytes: BufRead + Seek + 'static {}

impl<T: BufRead + Seek + 'static> Bytes for T {}

fn decoder(mut bytes: impl Bytes) -> Result<impl ImageDecoder, String> {
    if bytes.fill_buf().map_err(|e| e.to_string())?.is_empty() {
        return Err("the file is empty".to_owned());
    }
    let reader = ImageReader::new(bytes).with_guessed_format().map_err(|e| e.to_string())?;
    reader.into_decoder().map_err(|e| e.to_string())
}

fn file(path: &Path) -> Result<impl Bytes, String> {
    File::open(path).map(BufReader::new).map_err(|e| e.to_string())
}

/// Reads a picture's header alone.
pub(crate) fn header(path: &Path) -> Result<Header, String> {
    header_of(file(path)?)
}

/// [`header`] of a picture that is already open.
pub(crate) fn header_of(bytes: impl Bytes) -> Result<Header, String> {
    let decoder = decoder(bytes)?;
    match decoder.dimensions() {
        (0, _) | (_, 0) => Err("the picture has no pixels".to_owned()),
        _ => Ok(Header { alpha: decoder.color_type().has_alpha() }),
    }
}

/// Reads a PNG, JPEG or WebP file as it is meant to be seen: turned as its EXIF orientation says, transparent parts
/// over a background, any depth and any colours as 8-bit RGB. Colour profiles are not applied.
///
/// # Errors
///
/// [`Error::Data`] naming the file when it cannot be read or is no such picture.
pub fn open_picture(path: &Path, background: Background) -> Result<Opened, Error> {
    let opened = file(path).and_then(|file| opened(file, background));
    opened.map_err(|reason| Error::Data { path: path.to_owned(), reason })
}

/// [`open_picture`] of a picture that is already open.
pub(crate) fn opened(bytes: impl Bytes, background: Background) -> Result<Opened, String> {
    let mut decoder = decoder(bytes)?;
    // An orientation that cannot be read is none, as viewers have it.
    let orientation = decoder.orientation().ok();
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
    orientation.into_iter().for_each(|orientation| picture.apply_orientation(orientation));
    Ok(over(&picture, background))
}

/// The square in the middle of a picture, resized to `size` pixels a side.
pub(crate) fn square(picture: &RgbImage, size: u32) -> RgbImage {
    let (width, height) = picture.dimensions();
    let side = width.min(height);
    let square = crop_imm(picture, (width - side) / 2, (height - side) / 2, side, side).to_image();
    match side == size {
        true => square,
        false => resize(&square, size, size, FilterType::Lanczos3),
    }
}

/// A picture over a background.
fn over(picture: &DynamicImage, background: Background) -> Opened {
    if !picture.color().has_alpha() {
        return Opened { image: picture.to_rgb8(), transparent: false };
    }
    let picture = picture.to_rgba8();
    let behind = background.rgb();
    let image = RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [r, g, b, alpha] = picture.get_pixel(x, y).0.map(u32::from);
        let mixed =
            |front: u32, behind: u8| ((front * alpha + u32::from(behind) * (255 - alpha) + 127) / 255) as u8;
        Rgb([mixed(r, behind[0]), mixed(g, behind[1]), mixed(b, behind[2])])
    });
    Opened { image, transparent: picture.pixels().any(|pixel| pixel.0[3] < 255) }
}

/// Pictures of one size in rows of `columns`, two grey pixels apart.
pub fn grid(pictures: &[RgbImage], columns: usize) -> RgbImage {
    const GAP: u32 = 2;
    let Some(first) = pictures.first() else {
        return RgbImage::new(1, 1);
    };
    let (width, height) = first.dimensions();
    let columns = columns.clamp(1, pictures.len());
    let rows = pictures.len().div_ceil(columns) as u32;
    let span = |n: u32, size: u32| n * (size + GAP) + GAP;
    let mut sheet = RgbImage::from_pixel(span(columns as u32, width), span(rows, height), Rgb([128; 3]));
    for (i, picture) in pictures.iter().enumerate() {
        let (column, row) = ((i % columns) as u32, (i / columns) as u32);
        imageops::replace(&mut sheet, picture, i64::from(span(column, width)), i64::from(span(row, height)));
    }
    sheet
}

/// Writes a PNG, whole or not at all.
///
/// # Errors
///
/// [`dmd_weights::Error::Write`] when it cannot be written.
pub fn save(picture: &RgbImage, path: &Path) -> Result<(), Error> {
    let mut bytes = Cursor::new(Vec::new());
    let encoded = picture.write_to(&mut bytes, ImageFormat::Png);
    encoded.map_err(|error| dmd_weights::Error::Write {
        path: path.to_owned(),
        source: std::io::Error::other(error),
    })?;
    Ok(dmd_weights::write_atomic(path, bytes.get_ref())?)
}
