//! DMD's measure of the regression term: LPIPS of decoded pictures.

use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor};
use dmd_core::{Distance, PseudoHuber, SquaredError};
use dmd_unet::TinyAutoencoder;

use crate::Error;
use crate::config::{Measure, PerceptualSection, RegressionSection};
use crate::domain::Domain;
use dmd_eval::Lpips;

/// LPIPS of decoded pictures: DMD's regression term (section 3.3).
#[derive(Debug)]
pub struct Perceptual<'a, D: Domain> {
    lpips: Lpips,
    domain: &'a D,
    /// A small decoder instead of the model's own.
    tiny: Option<TinyAutoencoder>,
    size: Option<usize>,
}

impl<'a, D: Domain> Perceptual<'a, D> {
    /// Reads the metric's files.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken or does not fit.
    pub fn open(section: &PerceptualSection, domain: &'a D, device: &Device) -> Result<Self, Error> {
        let lpips = Lpips::from_files(section.network, &section.trunk, &section.weightings, device)?;
        let tiny = match &section.taesd {
            Some(folder) => Some(TinyAutoencoder::from_dir(folder, device)?.0),
            None => None,
        };
        Ok(Self { lpips, domain, tiny, size: section.size })
    }

    /// Pictures in [−1, 1], of three channels and the configured size.
    fn pictures(&self, x0: Tensor<4>) -> Tensor<4> {
        let pictures = match &self.tiny {
            Some(tiny) => tiny.decode(x0),
            None => self.domain.decode(x0),
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

impl<D: Domain> Distance for Perceptual<'_, D> {
    fn of(&self, x: Tensor<4>, target: Tensor<4>) -> Tensor<1> {
        self.lpips.distance(self.pictures(x), self.pictures(target)).mean()
    }
}

impl RegressionSection {
    /// The measure that is configured.
    pub(crate) fn distance<'a, D: Domain>(
        &self,
        domain: &'a D,
        device: &Device,
    ) -> Result<Box<dyn Distance + 'a>, Error> {
        Ok(match (&self.perceptual, self.measure) {
            (Some(section), _) => Box::new(Perceptual::open(section, domain, device)?),
            (None, Measure::Squared) => Box::new(SquaredError),
            (None, Measure::PseudoHuber { c }) => Box::new(PseudoHuber { c }),
        })
    }
}
