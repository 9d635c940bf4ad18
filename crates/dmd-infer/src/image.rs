use std::io::Cursor;

use burn::tensor::Tensor;
use image::{ImageFormat, Rgb, RgbImage};

use crate::Error;

/// Pictures of `[batch, 3, height, width]`: [−1, 1] becomes 0 to 255, rounded, clamped, as diffusers does.
///
/// # Panics
///
/// If there are not three channels.
pub fn to_rgb8(images: Tensor<4>) -> Vec<RgbImage> {
    let [batch, channels, height, width] = images.dims();
    assert_eq!(channels, 3, "a picture has 3 channels");
    let values: Vec<f32> = images.into_data().iter::<f32>().collect();
    let plane = height * width;
    let level = |value: f32| ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
    (0..batch)
        .map(|n| {
            RgbImage::from_fn(width as u32, height as u32, |x, y| {
                let at = n * 3 * plane + y as usize * width + x as usize;
                Rgb([level(values[at]), level(values[at + plane]), level(values[at + 2 * plane])])
            })
        })
        .collect()
}

/// A picture as the bytes of a PNG file.
///
/// # Errors
///
/// [`Error::Encode`] when the encoder fails.
pub fn encode_png(picture: &RgbImage) -> Result<Vec<u8>, Error> {
    let mut bytes = Cursor::new(Vec::new());
    let written = picture.write_to(&mut bytes, ImageFormat::Png);
    written.map_err(|error| Error::Encode { reason: error.to_string() })?;
    Ok(bytes.into_inner())
}
