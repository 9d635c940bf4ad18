//! How many samples go through a network at once outside of training: probes, pairs and pools of any number of samples
//! need the memory of one chunk.

use burn::tensor::Tensor;
use dmd_model::pixels::to_rgb8;
use image::RgbImage;

/// Bytes of the largest activation of a chunk.
const LARGEST_ACTIVATION: usize = 1 << 30;

/// Pictures of a size that an autoencoder takes at once. Its widest activation has 256 channels at the size of the
/// picture (Stable Diffusion's decoder): at 512² these are 256 MiB for a picture, 4 pictures at once.
pub(crate) fn of_pictures(height: usize, width: usize) -> usize {
    (LARGEST_ACTIVATION / (256 * size_of::<f32>() * height * width).max(1)).max(1)
}

/// Samples of a shape that a guided UNet takes at once, both branches as one batch: 1024 channels at the size of the
/// sample, or the scores of 8 attention heads over all its positions. At least `batch`, which training keeps all
/// activations of.
pub(crate) fn of_samples([_, height, width]: [usize; 3], batch: usize) -> usize {
    let positions = height * width;
    let values = (1024 * positions).max(8 * positions * positions);
    (LARGEST_ACTIVATION / (2 * size_of::<f32>() * values).max(1)).max(batch).max(1)
}

/// The ranges of at most `chunk` out of `count`.
pub(crate) fn ranges(count: usize, chunk: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..count).step_by(chunk.max(1)).map(move |start| start..(start + chunk).min(count))
}

/// The pictures of samples, decoded in chunks; `None` when `stopped` said so before the end.
pub(crate) fn decode(
    decoder: &dyn Fn(Tensor<4>) -> Tensor<4>,
    x0: Tensor<4>,
    stopped: &dyn Fn() -> bool,
) -> Option<Vec<RgbImage>> {
    let [count, ..] = x0.dims();
    let mut pictures: Vec<RgbImage> = Vec::with_capacity(count);
    while pictures.len() < count {
        if stopped() {
            return None;
        }
        // The first picture tells the size of the others.
        let chunk = pictures.first().map_or(1, |p| of_pictures(p.height() as usize, p.width() as usize));
        let start = pictures.len();
        let part = x0.clone().narrow(0, start, chunk.min(count - start));
        pictures.extend(to_rgb8(decoder(part)));
    }
    Some(pictures)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stable Diffusion's pictures and latents, and the embedded model's.
    #[test]
    fn chunks_of_known_models() {
        assert_eq!((of_pictures(512, 512), of_pictures(64, 64)), (4, 256));
        assert_eq!((of_samples([4, 64, 64], 2), of_samples([4, 16, 16], 16)), (2, 256));
        assert_eq!(ranges(5, 2).collect::<Vec<_>>(), [0..2, 2..4, 4..5]);
    }
}
