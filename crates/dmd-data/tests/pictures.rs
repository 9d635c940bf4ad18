//! Picture files are read as viewers show them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use dmd_data::{Background, Dataset, ImageFolder, open_picture};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder, Rgb, RgbImage, imageops};

fn read(path: &Path) -> RgbImage {
    open_picture(path, Background::White).unwrap().image
}

/// A picture whose quarters differ, wider than high.
fn quarters() -> RgbImage {
    RgbImage::from_fn(32, 16, |x, y| match (x < 16, y < 8) {
        (true, true) => Rgb([200, 30, 30]),
        (false, true) => Rgb([30, 200, 30]),
        (true, false) => Rgb([30, 30, 200]),
        (false, false) => Rgb([220, 220, 220]),
    })
}

/// An EXIF block that holds an orientation alone, in TIFF's big-endian form.
fn exif(orientation: u8) -> Vec<u8> {
    let mut bytes = b"MM\0\x2a\0\0\0\x08\0\x01".to_vec();
    bytes.extend([0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0, 0, 0, 0, 0]);
    bytes
}

fn write(mut encoder: impl ImageEncoder, picture: &RgbImage, orientation: u8) {
    encoder.set_exif_metadata(exif(orientation)).unwrap();
    let (width, height) = picture.dimensions();
    encoder.write_image(picture.as_raw(), width, height, ExtendedColorType::Rgb8).unwrap();
}

/// A picture as it is stored for one that is to be seen upright.
fn stored(upright: &RgbImage, orientation: u8) -> RgbImage {
    use imageops::{flip_horizontal, flip_vertical, rotate90, rotate180, rotate270};
    match orientation {
        2 => flip_horizontal(upright),
        3 => rotate180(upright),
        4 => flip_vertical(upright),
        // Transposed; turned back a quarter, and so on: each the inverse of what a viewer does.
        5 => flip_horizontal(&rotate90(upright)),
        6 => rotate270(upright),
        7 => flip_horizontal(&rotate270(upright)),
        8 => rotate90(upright),
        _ => upright.clone(),
    }
}

/// Phones store pictures as the sensor lies, and beside them how to turn them.
#[test]
fn pictures_are_turned_upright() {
    let folder = tempfile::tempdir().unwrap();
    let (upright, path) = (quarters(), folder.path().join("picture"));
    let file = || BufWriter::new(fs::File::create(&path).unwrap());
    for orientation in 1..=8 {
        let stored = stored(&upright, orientation);
        write(PngEncoder::new(file()), &stored, orientation);
        assert!(read(&path) == upright, "PNG, orientation {orientation}");
        write(WebPEncoder::new_lossless(file()), &stored, orientation);
        assert!(read(&path) == upright, "WebP, orientation {orientation}");
        write(JpegEncoder::new_with_quality(file(), 95), &stored, orientation);
        let found = read(&path);
        assert_eq!(found.dimensions(), upright.dimensions(), "JPEG, orientation {orientation}");
        let apart = found.as_raw().iter().zip(upright.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b)));
        // A JPEG of quality 95 loses a few levels at edges.
        assert!(apart.sum::<u64>() < 4 * upright.as_raw().len() as u64, "JPEG, orientation {orientation}");
    }
}

/// Writes a PNG of one row.
fn png(path: &Path, colour: png::ColorType, depth: png::BitDepth, row: &[u8], palette: Option<[&[u8]; 2]>) {
    let width = row.len() * 8 / (colour.samples() * depth as usize);
    let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), width as u32, 1);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    if let Some([colours, opacities]) = palette {
        encoder.set_palette(colours.to_vec());
        encoder.set_trns(opacities.to_vec());
    }
    encoder.write_header().unwrap().write_image_data(row).unwrap();
}

/// Every depth and every kind of pixel becomes the 8-bit RGB that it stands for.
#[test]
fn any_kind_of_pixel_is_read() {
    use png::BitDepth::{Eight, One, Sixteen};
    use png::ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture.png");
    let pixels = |path: &Path| read(path).pixels().map(|pixel| pixel.0).collect::<Vec<_>>();
    png(&path, Grayscale, Eight, &[0, 100, 255], None);
    assert_eq!(pixels(&path), [[0; 3], [100; 3], [255; 3]]);
    png(&path, Grayscale, One, &[0b1010_0000], None);
    assert_eq!(pixels(&path)[..3], [[255; 3], [0; 3], [255; 3]]);
    // 16 bits: 0x8000 is 127.5 + 0.002 of 255, nearest to 128; 0x1234 is 18.13.
    png(&path, Rgb, Sixteen, &[0x80, 0x00, 0x12, 0x34, 0xff, 0xff], None);
    assert_eq!(pixels(&path), [[128, 18, 255]]);
    png(&path, Indexed, Eight, &[1, 0, 1], Some([&[10, 20, 30, 200, 100, 50], &[255, 255]]));
    assert_eq!(pixels(&path), [[200, 100, 50], [10, 20, 30], [200, 100, 50]]);
    // Opacity of a fifth: 0.2 · 100 + 0.8 · 255 = 224.
    png(&path, GrayscaleAlpha, Eight, &[100, 51, 7, 0], None);
    assert_eq!(pixels(&path), [[224; 3], [255; 3]]);
    png(&path, Indexed, Eight, &[0, 1], Some([&[10, 20, 30, 200, 100, 50], &[0, 255]]));
    assert_eq!(pixels(&path), [[255; 3], [200, 100, 50]]);
    png(&path, Rgba, Eight, &[0, 0, 0, 0, 40, 80, 120, 255], None);
    let on = |background| open_picture(&path, background).unwrap();
    assert_eq!(on(Background::Black).image.get_pixel(0, 0).0, [0; 3]);
    assert_eq!(on(Background::Grey).image.get_pixel(0, 0).0, [128; 3]);
    let white = on(Background::White);
    assert!(white.transparent && white.image.get_pixel(0, 0).0 == [255; 3]);
    assert_eq!(white.image.get_pixel(1, 0).0, [40, 80, 120]);
}

/// Printers' colours, as Pillow writes and reads them: (200, 60, 30) left, (20, 90, 160) right.
#[test]
fn jpegs_of_four_inks() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/pictures/cmyk.jpg");
    let picture = read(&path);
    for (x, expected) in [(4, [200, 60, 30]), (24, [20, 90, 160])] {
        let found = picture.get_pixel(x, 8).0;
        // Quality 95.
        assert!(found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 4), "{found:?} for {expected:?}");
    }
}

/// A training folder composites, too, and says so once.
#[test]
fn folders_tell_of_opacity() {
    let folder = tempfile::tempdir().unwrap();
    png(&folder.path().join("a.png"), png::ColorType::Rgba, png::BitDepth::Eight, &[1, 2, 3, 0], None);
    png(&folder.path().join("b.png"), png::ColorType::Rgb, png::BitDepth::Eight, &[1, 2, 3], None);
    let lines = ["a", "b"].map(|name| format!("{{\"file_name\": \"{name}.png\", \"text\": \"{name}\"}}"));
    fs::write(folder.path().join("metadata.jsonl"), lines.join("\n")).unwrap();
    let opened = ImageFolder::open(folder.path(), 8).unwrap();
    let notes = opened.notes();
    assert!(notes.len() == 1 && notes[0].contains("1 of 2") && notes[0].contains("white"), "{notes:?}");
    assert!(opened.get(0).unwrap().image.pixels().all(|pixel| pixel.0 == [255; 3]));
    let black = opened.with_background(Background::Black);
    assert!(black.get(0).unwrap().image.pixels().all(|pixel| pixel.0 == [0; 3]));
}
