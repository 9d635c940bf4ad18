use burn::tensor::{Device, Tensor};
use dmd_core::Noise;
use dmd_data::Dataset;
use dmd_model::pixels::from_rgb8;
use dmd_model::{Family, Model};

use crate::{Error, chunks};

/// Real pictures as samples, made once, and their captions.
#[derive(Debug)]
pub(crate) struct RealPool {
    samples: Vec<Tensor<4>>,
    captions: Vec<String>,
}

impl RealPool {
    /// Draws `count` pictures and encodes them.
    pub(crate) fn encode<F: Family>(
        count: usize,
        dataset: &dyn Dataset,
        model: &Model<F>,
        seed: u64,
        device: &Device,
    ) -> Result<Self, Error> {
        let mut noise = Noise::stream(seed, "reals");
        let mut pool = Self { samples: Vec::new(), captions: Vec::new() };
        let side = dataset.size()? as usize;
        for range in chunks::ranges(count, chunks::of_pictures(side, side)) {
            let examples = range.map(|_| dataset.draw(&mut noise)).collect::<Result<Vec<_>, _>>()?;
            let (images, captions): (Vec<_>, Vec<_>) =
                examples.into_iter().map(|example| (example.image, example.caption)).unzip();
            let samples = model.codec.encode_mode(from_rgb8(&images, device));
            let found: [usize; 3] = [samples.dims()[1], samples.dims()[2], samples.dims()[3]];
            if found != model.shape() {
                return Err(Error::Option {
                    key: "data",
                    value: format!("pictures of {side}×{side}"),
                    must: "pictures of the size that the teacher was trained on",
                });
            }
            pool.samples.extend((0..images.len()).map(|row| samples.clone().narrow(0, row, 1)));
            pool.captions.extend(captions);
        }
        Ok(pool)
    }

    /// Which samples a batch has.
    pub(crate) fn draw(&self, count: usize, noise: &mut Noise) -> Vec<usize> {
        (0..count).map(|_| noise.below(self.captions.len())).collect()
    }

    /// The samples at some places, and their captions.
    pub(crate) fn get(&self, places: &[usize]) -> (Tensor<4>, Vec<&str>) {
        let rows = places.iter().map(|place| self.samples[*place].clone()).collect();
        (Tensor::cat(rows, 0), places.iter().map(|place| self.captions[*place].as_str()).collect())
    }
}
