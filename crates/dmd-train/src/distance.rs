//! DMD's measure of the regression term: LPIPS of decoded pictures.

use std::path::Path;

use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor};
use dmd_core::{Distance, PseudoHuber, SquaredError};
use dmd_unet::TinyAutoencoder;

use crate::Error;
use crate::config::{Measure, PerceptualSection, RegressionSection};
use dmd_eval::Lpips;
use dmd_model::{Family, Model};

/// LPIPS of decoded pictures: DMD's regression term (section 3.3).
#[derive(Debug)]
pub struct Perceptual<'a, F: Family> {
    lpips: Lpips,
    model: &'a Model<F>,
    /// A small decoder instead of the model's own.
    tiny: Option<TinyAutoencoder>,
    size: Option<usize>,
}

impl<'a, F: Family> Perceptual<'a, F> {
    /// Reads the metric's files.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken or does not fit.
    pub fn open(section: &PerceptualSection, model: &'a Model<F>, device: &Device) -> Result<Self, Error> {
        let lpips = Lpips::from_files(section.network, &section.trunk, &section.weightings, device)?;
        let tiny = match &section.taesd {
            Some(folder) => Some(tiny(folder, model.shape()[0], device)?),
            None => None,
        };
        Ok(Self { lpips, model, tiny, size: section.size })
    }

    /// Pictures in [−1, 1], of three channels and the configured size.
    fn pictures(&self, x0: Tensor<4>) -> Tensor<4> {
        let pictures = match &self.tiny {
            Some(tiny) => tiny.decode(x0),
            None => self.model.codec.decode(x0),
        };
        let [batch, channels, height, width] = pictures.dims();
        let pictures = if channels == 1 { pictures.expand([batch, 3, height, width]) } else { pictures };
        match self.size {
            None => pictures,
            Some(size) => {
                let options =
                    InterpolateOptions::new(InterpolateMode::Bilinear).with_output_size([size, size]);
                interpolate(pictures, options.with_align_corners(false))
            }
        }
    }
}

/// A small decoder for latents of some channels.
fn tiny(folder: &Path, channels: usize, device: &Device) -> Result<TinyAutoencoder, Error> {
    let (tiny, config) = TinyAutoencoder::from_dir(folder, device)?;
    if config.latent_channels != channels {
        return Err(Error::Option {
            key: "regression.perceptual.taesd",
            value: format!("{folder:?}, which decodes {} channels", config.latent_channels),
            must: "a TAESD for as many channels as the model's latents have",
        });
    }
    Ok(tiny)
}

impl<F: Family> Distance for Perceptual<'_, F> {
    fn of(&self, x: Tensor<4>, target: Tensor<4>) -> Tensor<1> {
        self.lpips.distance(self.pictures(x), self.pictures(target)).mean()
    }
}

impl RegressionSection {
    /// The measure that is configured.
    pub(crate) fn distance<'a, F: Family>(
        &self,
        model: &'a Model<F>,
        device: &Device,
    ) -> Result<Box<dyn Distance + 'a>, Error> {
        Ok(match (&self.perceptual, self.measure) {
            (Some(section), _) => Box::new(Perceptual::open(section, model, device)?),
            (None, Measure::Squared) => Box::new(SquaredError),
            (None, Measure::PseudoHuber { c }) => Box::new(PseudoHuber { c }),
        })
    }
}
