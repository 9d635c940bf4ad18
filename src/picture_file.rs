//! Files of pictures: the format that a file's name asks for, with the picture's parameters inside, and the names of
//! several pictures.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use dmd_infer::encode_png;
use dmd_weights::write_atomic;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::webp::WebPEncoder;
use image::imageops::{self, FilterType};
use image::{ExtendedColorType, ImageEncoder, RgbImage};

use crate::console::{self, divert};

/// Smallest height of a picture that is shown, in pixels.
const SHOWN: u32 = 256;

/// A picture large enough to be seen: a small one is enlarged by a whole factor.
pub(crate) fn enlarged(picture: &RgbImage) -> RgbImage {
    let (width, height) = picture.dimensions();
    let factor = SHOWN.div_ceil(height.max(1)).max(1);
    imageops::resize(picture, width * factor, height * factor, FilterType::Nearest)
}

/// Quality of a JPEG, of 100.
const QUALITY: u8 = 95;

/// What a picture is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Png,
    Jpeg,
    /// Without loss.
    WebP,
}

impl Format {
    /// The format that a name's ending stands for; a name without one is a PNG.
    fn of(path: &Path) -> anyhow::Result<Self> {
        let Some(ending) = path.extension() else { return Ok(Self::Png) };
        Ok(match ending.to_string_lossy().to_lowercase().as_str() {
            "png" => Self::Png,
            "jpg" | "jpeg" => Self::Jpeg,
            "webp" => Self::WebP,
            other => {
                bail!("cannot write {path:?}: pictures are written as .png, .jpg or .webp, not as .{other}")
            }
        })
    }

    /// A picture with its parameters: a text chunk in a PNG, the user comment of the Exif block in the others.
    fn encode(self, picture: &RgbImage, parameters: Option<&str>) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self {
            Self::Png => {
                let texts: Vec<_> = parameters.map(|text| ("parameters", text)).into_iter().collect();
                bytes = encode_png(picture, &texts)?;
            }
            Self::Jpeg => with_exif(JpegEncoder::new_with_quality(&mut bytes, QUALITY), picture, parameters)?,
            Self::WebP => with_exif(WebPEncoder::new_lossless(&mut bytes), picture, parameters)?,
        }
        Ok(bytes)
    }
}

fn with_exif(mut encoder: impl ImageEncoder, picture: &RgbImage, text: Option<&str>) -> anyhow::Result<()> {
    if let Some(text) = text {
        encoder.set_exif_metadata(user_comment(text))?;
    }
    let (width, height) = picture.dimensions();
    Ok(encoder.write_image(picture.as_raw(), width, height, ExtendedColorType::Rgb8)?)
}

/// An Exif block that holds one user comment, in UTF-16 as other programs write it (Exif 2.32, section 4.6).
fn user_comment(text: &str) -> Vec<u8> {
    let mut comment = b"UNICODE\0".to_vec();
    comment.extend(text.encode_utf16().flat_map(u16::to_be_bytes));
    // One directory with one entry of 12 bytes takes 18 bytes; the header takes 8.
    let (main, exif, value) = (8_u32, 26, 44_u32);
    let mut block = b"MM\0*".to_vec();
    block.extend(main.to_be_bytes());
    directory(&mut block, 0x8769, 4, 1, exif); // the place of the Exif directory
    directory(&mut block, 0x9286, 7, comment.len() as u32, value); // UserComment, undefined bytes
    block.extend(comment);
    block
}

/// A directory of one entry that ends the list.
fn directory(block: &mut Vec<u8>, tag: u16, kind: u16, count: u32, value: u32) {
    block.extend(1_u16.to_be_bytes());
    block.extend(tag.to_be_bytes());
    block.extend(kind.to_be_bytes());
    for number in [count, value, 0] {
        block.extend(number.to_be_bytes());
    }
}

/// Where a number of pictures go.
#[derive(Debug, Clone)]
pub(crate) struct Pictures {
    out: PathBuf,
    format: Format,
    count: usize,
    /// `out` is a pipe or a device: all pictures go into it, one after the other.
    stream: bool,
}

impl Pictures {
    /// Looks at the name before anything is drawn. `-` is standard output: pictures follow each other there as PNGs, and lines
    /// go to standard error.
    ///
    /// # Errors
    ///
    /// When the name asks for a format that is not written, or belongs to a folder.
    pub(crate) fn new(out: &Path, count: usize) -> anyhow::Result<Self> {
        if out.as_os_str() == "-" {
            divert();
            return Ok(Self { out: out.to_owned(), format: Format::Png, count, stream: true });
        }
        let found = fs::metadata(out).ok();
        if found.as_ref().is_some_and(fs::Metadata::is_dir) {
            let inside = out.join("picture.png");
            bail!("cannot write {out:?}: Is a directory; name a file in it, such as {inside:?}");
        }
        let stream = found.is_some_and(|found| !found.is_file());
        Ok(Self { out: out.to_owned(), format: Format::of(out)?, count, stream })
    }

    /// `picture.png` for one picture; `picture-1.png`, `picture-2.png` and so on for several, with leading zeros so
    /// that they sort in this order.
    pub(crate) fn path(&self, index: usize) -> PathBuf {
        if self.count == 1 || self.stream {
            return self.out.clone();
        }
        let digits = self.count.to_string().len();
        let mut name = self.out.file_stem().unwrap_or_default().to_owned();
        name.push(format!("-{:0digits$}.", index + 1));
        name.push(self.out.extension().unwrap_or("png".as_ref()));
        self.out.with_file_name(name)
    }

    /// Writes a picture, with its parameters inside; returns where it is.
    ///
    /// # Errors
    ///
    /// When the picture cannot be encoded, or the file cannot be written.
    pub(crate) fn write(
        &self,
        index: usize,
        picture: &RgbImage,
        parameters: Option<&str>,
    ) -> anyhow::Result<PathBuf> {
        let path = self.path(index);
        let bytes = self.format.encode(picture, parameters);
        let bytes = bytes.with_context(|| format!("cannot write {path:?}"))?;
        match path.as_os_str() == "-" {
            true => console::bytes(&bytes),
            false => write_atomic(&path, &bytes)?,
        }
        Ok(path)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn endings() {
        for (name, format) in [
            ("fox", Format::Png),
            ("fox.PNG", Format::Png),
            ("fox.jpg", Format::Jpeg),
            ("a.b/fox.jpeg", Format::Jpeg),
            ("fox.webp", Format::WebP),
        ] {
            assert_eq!(Format::of(name.as_ref()).unwrap(), format);
        }
        let refused = Format::of("fox.tiff".as_ref()).unwrap_err().to_string();
        assert!(refused.contains(".png") && refused.contains(".tiff"), "{refused}");
    }

    #[test]
    fn numbers_sort() {
        let names = |out: &str, count| {
            let pictures = Pictures::new(out.as_ref(), count).unwrap();
            [0, count - 1].map(|i| pictures.path(i).to_str().unwrap().to_owned())
        };
        assert_eq!(names("a/fox.jpg", 1), ["a/fox.jpg", "a/fox.jpg"]);
        assert_eq!(names("a/fox.jpg", 4), ["a/fox-1.jpg", "a/fox-4.jpg"]);
        assert_eq!(names("a/fox.jpg", 10), ["a/fox-01.jpg", "a/fox-10.jpg"]);
        assert_eq!(names("fox", 600), ["fox-001.png", "fox-600.png"]);
    }

    /// Pixels come back, exactly where the format is without loss; the parameters stand where readers of Exif look.
    #[test]
    fn formats() {
        let picture = RgbImage::from_fn(16, 8, |x, y| image::Rgb([16 * x as u8, 30 * y as u8, 90]));
        let parameters = "a fox, 東京 🎈\nSteps: 4";
        for (format, guess, off) in [
            (Format::Png, image::ImageFormat::Png, 0),
            (Format::Jpeg, image::ImageFormat::Jpeg, 40),
            (Format::WebP, image::ImageFormat::WebP, 0),
        ] {
            let bytes = format.encode(&picture, Some(parameters)).unwrap();
            assert_eq!(image::guess_format(&bytes).unwrap(), guess);
            let found = image::load_from_memory(&bytes).unwrap().to_rgb8();
            let worst =
                found.as_raw().iter().zip(picture.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(worst <= off, "{format:?}: {worst}");
            if format != Format::Png {
                use image::ImageDecoder;
                let reader = image::ImageReader::with_format(std::io::Cursor::new(&bytes), guess);
                let exif = reader.into_decoder().unwrap().exif_metadata().unwrap().unwrap();
                assert_eq!(exif, user_comment(parameters));
            }
        }
    }

    /// A tag, a type, a count, and the place of the value: byte by byte, as TIFF has it.
    #[test]
    fn exif_by_hand() {
        let expected = [
            &b"MM\0*\0\0\0\x08"[..],
            b"\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x1a\0\0\0\0",
            b"\0\x01\x92\x86\0\x07\0\0\0\x0a\0\0\0\x2c\0\0\0\0",
            b"UNICODE\0\0A",
        ];
        assert_eq!(user_comment("A"), expected.concat());
    }
}
