//! Converts tensors to pictures and back. All crates use these functions, so that a value of a tensor becomes the same
//! pixel level everywhere.

use burn::tensor::{Device, Tensor, TensorData};
use image::{Rgb, RgbImage};

/// Converts `[batch, channels, height, width]` to pictures. −1 becomes 0, 1 becomes 255. Values are clamped and rounded
/// (halves to even) as in diffusers. A single channel becomes grey.
///
/// # Panics
///
/// If there are neither three channels nor one channel.
pub fn to_rgb8(images: Tensor<4>) -> Vec<RgbImage> {
    let [batch, channels, height, width] = images.dims();
    assert!(channels == 3 || channels == 1, "a picture has 3 channels or 1, not {channels}");
    let values: Vec<f32> = images.into_data().iter::<f32>().collect();
    let plane = height * width;
    let level = |value: f32| ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
    (0..batch)
        .map(|n| {
            RgbImage::from_fn(width as u32, height as u32, |x, y| {
                let at = n * channels * plane + y as usize * width + x as usize;
                Rgb([0, 1, 2].map(|channel| level(values[at + channel % channels * plane])))
            })
        })
        .collect()
}

/// Converts pictures to `[batch, 3, height, width]` in [−1, 1].
///
/// # Panics
///
/// If the pictures differ in size.
pub fn from_rgb8(pictures: &[RgbImage], device: &Device) -> Tensor<4> {
    let (width, height) = pictures.first().map_or((0, 0), RgbImage::dimensions);
    let plane = (width * height) as usize;
    let mut values = vec![0.0_f32; pictures.len() * 3 * plane];
    for (picture, values) in pictures.iter().zip(values.chunks_mut(3 * plane.max(1))) {
        assert_eq!(picture.dimensions(), (width, height), "pictures of a batch have one size");
        for (i, pixel) in picture.pixels().enumerate() {
            for (channel, level) in pixel.0.iter().enumerate() {
                values[channel * plane + i] = f32::from(*level) / 127.5 - 1.0;
            }
        }
    }
    let shape = [pictures.len(), 3, height as usize, width as usize];
    Tensor::from_data(TensorData::new(values, shape), device)
}
