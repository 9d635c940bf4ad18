use std::path::Path;

use burn::tensor::Device;
use dmd_clip::{ClipModel, Tokenizer};
use dmd_model::pixels::from_rgb8;
use image::RgbImage;
use image::imageops::{FilterType, crop_imm, resize};

use crate::Error;

/// Pictures that go through the network at once.
const CHUNK: usize = 20;

/// CLIP with its tokenizer: how well pictures show what their captions say (Hessel et al. 2021).
#[derive(Debug)]
pub struct ClipScore {
    model: ClipModel,
    tokenizer: Tokenizer,
    side: u32,
    device: Device,
}

impl ClipScore {
    /// Opens the folder of a `CLIPModel` with its tokenizer.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken or of another network.
    pub fn from_dir(folder: &Path, device: &Device) -> Result<Self, Error> {
        let (model, config) = ClipModel::from_dir(folder, device)?;
        let tokenizer = Tokenizer::from_dir(folder, config.text_config.max_position_embeddings)?;
        let side = config.vision_config.image_size as u32;
        Ok(Self { model, tokenizer, side, device: device.clone() })
    }

    /// The cosine of each picture and its caption; their mean is the CLIP score before its factor.
    ///
    /// # Errors
    ///
    /// When a caption cannot be encoded.
    ///
    /// # Panics
    ///
    /// If there are not as many captions as pictures.
    pub fn cosines(&self, pictures: &[RgbImage], captions: &[String]) -> Result<Vec<f64>, Error> {
        assert_eq!(pictures.len(), captions.len(), "a caption for each picture");
        let mut all = Vec::with_capacity(pictures.len());
        for (pictures, captions) in pictures.chunks(CHUNK).zip(captions.chunks(CHUNK)) {
            let prepared: Vec<RgbImage> = pictures.iter().map(|picture| self.prepared(picture)).collect();
            let pixels = ClipModel::pixels((from_rgb8(&prepared, &self.device) + 1.0) / 2.0);
            let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
            all.extend(self.model.cosines(pixels, &captions, &self.tokenizer)?);
        }
        Ok(all)
    }

    /// CLIP's own preparation: the shorter side to the network's by a cubic filter, the middle cut out.
    fn prepared(&self, picture: &RgbImage) -> RgbImage {
        let (width, height) = picture.dimensions();
        let scale = f64::from(self.side) / f64::from(width.min(height));
        let to = |length: u32| ((f64::from(length) * scale).round() as u32).max(self.side);
        let resized = resize(picture, to(width), to(height), FilterType::CatmullRom);
        let (x, y) = ((resized.width() - self.side) / 2, (resized.height() - self.side) / 2);
        crop_imm(&resized, x, y, self.side, self.side).to_image()
    }
}
