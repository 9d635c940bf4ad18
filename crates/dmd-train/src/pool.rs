use burn::tensor::{Device, Int, Tensor, TensorData};
use dmd_clip::Tokenizer;
use dmd_core::Noise;
use dmd_data::Dataset;
use dmd_model::pixels::from_rgb8;
use dmd_unet::Autoencoder;

use crate::{Error, chunks};

/// Latents and tokens of a set of captioned pictures, made once.
#[derive(Debug, Clone)]
pub struct Pool {
    latents: Vec<f32>,
    latent_shape: [usize; 3],
    ids: Vec<Vec<u32>>,
    empty: Vec<u32>,
}

impl Pool {
    /// Draws `count` examples and encodes them, as many at once as a bounded memory allows.
    ///
    /// # Errors
    ///
    /// What the data source or the tokenizer returns.
    pub fn draw(
        count: usize,
        dataset: &dyn Dataset,
        autoencoder: &Autoencoder,
        tokenizer: &Tokenizer,
        noise: &mut Noise,
        device: &Device,
    ) -> Result<Self, Error> {
        let empty = tokenizer.encode("")?;
        let mut pool = Self { latents: Vec::new(), latent_shape: [0; 3], ids: Vec::new(), empty };
        let side = dataset.size()? as usize;
        for range in chunks::ranges(count, chunks::of_pictures(side, side)) {
            let examples = range.map(|_| dataset.draw(noise)).collect::<Result<Vec<_>, _>>()?;
            for example in &examples {
                pool.ids.push(tokenizer.encode(&example.caption)?);
            }
            let images: Vec<_> = examples.into_iter().map(|example| example.image).collect();
            let latents = autoencoder.encode(from_rgb8(&images, device)).mode();
            let [_, channels, height, width] = latents.dims();
            pool.latent_shape = [channels, height, width];
            pool.latents.extend(latents.into_data().iter::<f32>());
        }
        Ok(pool)
    }

    /// Shape of a latent, `[channels, height, width]`.
    pub(crate) fn latent_shape(&self) -> [usize; 3] {
        self.latent_shape
    }

    /// The latents at some places, `[batch, channels, height, width]`.
    pub(crate) fn latents(&self, places: &[usize], device: &Device) -> Tensor<4> {
        let [channels, height, width] = self.latent_shape;
        let size = channels * height * width;
        let values: Vec<f32> = places
            .iter()
            .flat_map(|place| &self.latents[place * size..(place + 1) * size])
            .copied()
            .collect();
        Tensor::from_data(TensorData::new(values, [places.len(), channels, height, width]), device)
    }

    /// The tokens at some places, `[batch, tokens]`; `None` stands for the empty caption.
    pub(crate) fn ids(&self, places: &[Option<usize>], device: &Device) -> Tensor<2, Int> {
        let values: Vec<i32> = places
            .iter()
            .flat_map(|place| place.map_or(&self.empty, |place| &self.ids[place]))
            .map(|id| *id as i32)
            .collect();
        Tensor::from_data(TensorData::new(values, [places.len(), self.empty.len()]), device)
    }

    /// Number of examples.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }
}
