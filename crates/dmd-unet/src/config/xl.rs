use serde::{Deserialize, Serialize};

use super::options::Options;
use crate::{Error, UNetConfig};

/// How many numbers [`XlCondition::sizes`](crate::XlCondition) has per sample: original height and width, top and left
/// of the crop, target height and width.
pub(crate) const SIZES: usize = 6;

/// `addition_embed_type` of an [`XlUNetConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddedEmbedding {
    /// The only accepted value: the pooled text features and the sizes.
    #[serde(rename = "text_time")]
    TextTime,
}

/// `unet/config.json` of Stable Diffusion XL: a [`UNetConfig`], and the options of SDXL's additional condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct XlUNetConfig {
    /// Which additional condition the network takes.
    pub addition_embed_type: AddedEmbedding,
    /// Number of sinusoids that encode each size.
    pub addition_time_embed_dim: usize,
    /// Width of the additional condition: the pooled text features and the sinusoids of all sizes.
    pub projection_class_embeddings_input_dim: usize,
    /// All other options.
    #[serde(flatten)]
    pub unet: UNetConfig,
}

impl XlUNetConfig {
    /// Width of the pooled text features.
    pub fn pooled_width(&self) -> usize {
        self.projection_class_embeddings_input_dim.saturating_sub(SIZES * self.addition_time_embed_dim)
    }

    /// Checks that this implementation supports every option.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`], which names the first option that is not supported.
    pub fn validate(&self) -> Result<(), Error> {
        self.unet.validate()?;
        let options = Options("UNet");
        let (sinusoids, width) = (self.addition_time_embed_dim, self.projection_class_embeddings_input_dim);
        options.counts("addition_time_embed_dim", &[sinusoids])?;
        options.counts("projection_class_embeddings_input_dim", &[width])?;
        let even = sinusoids.is_multiple_of(2);
        options.require(even, "addition_time_embed_dim", sinusoids, "an even number of sinusoids")?;
        // The refiner takes five numbers instead of six, one of them an aesthetic score. Its pooled width is also 1280.
        let refiner = sinusoids == 256 && width == 1280 + 5 * 256;
        let must = match refiner {
            true => "SDXL's base model; this is the refiner, which is not supported".to_owned(),
            false => format!("more than {}: {SIZES} sizes of {sinusoids} sinusoids each", SIZES * sinusoids),
        };
        let fits = !refiner && width > SIZES * sinusoids;
        options.require(fits, "projection_class_embeddings_input_dim", width, must)
    }
}
