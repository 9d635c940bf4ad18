//! Tensors as pictures, and pictures side by side.

use std::io::Cursor;
use std::path::Path;

use burn::tensor::Tensor;
use image::{ImageFormat, Rgb, RgbImage, imageops};

use crate::Error;

/// Pictures of `[batch, 3, height, width]`: [−1, 1] becomes 0 to 255, rounded, clamped.
pub fn from_tensor(images: Tensor<4>) -> Vec<RgbImage> {
    let [batch, _, height, width] = images.dims();
    let values: Vec<f32> = images.into_data().iter::<f32>().collect();
    let plane = height * width;
    (0..batch)
        .map(|n| {
            RgbImage::from_fn(width as u32, height as u32, |x, y| {
                let at = n * 3 * plane + y as usize * width + x as usize;
                let level = |c: usize| ((values[at + c * plane] + 1.0) * 127.5).round().clamp(0.0, 255.0);
                Rgb([level(0) as u8, level(1) as u8, level(2) as u8])
            })
        })
        .collect()
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
