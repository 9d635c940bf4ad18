use burn::tensor::Tensor;
use image::{Rgb, RgbImage};

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
    encode_png_with(picture, &[])
}

/// A picture as the bytes of a PNG file, with texts by keyword (international text chunks), such as
/// `parameters` and what [`Request::describe`](crate::Request::describe) says.
///
/// # Errors
///
/// [`Error::Encode`] when the encoder fails, for one when a keyword is no PNG keyword (1 to 79
/// Latin-1 characters).
pub fn encode_png_with(picture: &RgbImage, texts: &[(&str, &str)]) -> Result<Vec<u8>, Error> {
    let failed = |error: png::EncodingError| Error::Encode { reason: error.to_string() };
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width(), picture.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (keyword, text) in texts {
        encoder.add_itxt_chunk((*keyword).to_owned(), (*text).to_owned()).map_err(failed)?;
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(picture.as_raw()).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}
