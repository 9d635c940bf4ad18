use burn::tensor::{Device, Tensor};
use dmd_core::Noise;
use dmd_data::{Dataset, Epochs};
use dmd_model::pixels::from_rgb8;
use dmd_model::{Family, Model};

use crate::cache::LatentCache;
use crate::{Error, chunks};

/// Real pictures as samples, made once or taken from a cache, and their captions. They are drawn without repetition: all
/// of them in a random order, then all in another one.
#[derive(Debug)]
pub(crate) struct RealPool {
    samples: Samples,
    captions: Vec<String>,
    order: Epochs,
    drawn: u64,
}

#[derive(Debug)]
enum Samples {
    Kept(Vec<Tensor<4>>),
    /// Places of the chosen pictures in a cache.
    Cached(LatentCache, Vec<usize>),
}

/// Number of pictures of a data set with a list.
pub(crate) fn count(dataset: &dyn Dataset) -> Result<usize, Error> {
    dataset.size()?;
    Ok(dataset.count().ok_or_else(|| dmd_data::Error::Unlisted { dataset: dataset.name() })?)
}

/// The sample of a listed picture, `[1, channels, height, width]`, and its caption. It is encoded alone: a sample's last
/// bits would depend on its company.
pub(crate) fn sample<F: Family>(
    model: &Model<F>,
    dataset: &dyn Dataset,
    place: usize,
    device: &Device,
) -> Result<(Tensor<4>, String), Error> {
    let example = dataset.get(place)?;
    let sample = model.codec.encode_mode(from_rgb8(&[example.image], device));
    check(model, dataset, &sample)?;
    Ok((sample, example.caption))
}

/// Refuses samples of another shape than the model's.
fn check<F: Family>(model: &Model<F>, dataset: &dyn Dataset, samples: &Tensor<4>) -> Result<(), Error> {
    if samples.dims()[1..] == model.shape() {
        return Ok(());
    }
    let side = dataset.size()?;
    Err(Error::Option {
        key: "data",
        value: format!("pictures of {side}×{side}"),
        must: "pictures of the size that the teacher was trained on",
    })
}

impl RealPool {
    /// At most `count` pictures, each once, those of a cache where there is one; a data set without a list draws them.
    pub(crate) fn new<F: Family>(
        count: usize,
        dataset: &dyn Dataset,
        model: &Model<F>,
        cache: Option<LatentCache>,
        seed: u64,
        device: &Device,
    ) -> Result<Self, Error> {
        dataset.size()?;
        let (samples, captions) = match (dataset.count(), cache) {
            (None, _) => drawn(count, dataset, model, seed, device)?,
            (Some(all), cache) => {
                let mut order = Epochs::new(seed, "chosen reals", all);
                let places: Vec<usize> = (0..count.min(all)).map(|drawn| order.place(drawn as u64)).collect();
                match cache {
                    Some(cache) => {
                        let captions = places.iter().map(|place| cache.caption(*place).to_owned()).collect();
                        (Samples::Cached(cache, places), captions)
                    }
                    None => {
                        let made = places.iter().map(|place| sample(model, dataset, *place, device));
                        let (samples, captions) = made.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
                        (Samples::Kept(samples), captions)
                    }
                }
            }
        };
        let order = Epochs::new(seed, "reals", captions.len());
        Ok(Self { samples, captions, order, drawn: 0 })
    }

    /// Which samples the next batch has.
    pub(crate) fn draw(&mut self, count: usize) -> Vec<usize> {
        let places = (self.drawn..).take(count).map(|drawn| self.order.place(drawn)).collect();
        self.drawn += count as u64;
        places
    }

    /// The samples at some places, and their captions.
    pub(crate) fn get(&self, places: &[usize], device: &Device) -> Result<(Tensor<4>, Vec<&str>), Error> {
        let row = |place: &usize| match &self.samples {
            Samples::Kept(samples) => Ok(samples[*place].clone()),
            Samples::Cached(cache, chosen) => cache.row(chosen[*place], device),
        };
        let rows = places.iter().map(row).collect::<Result<Vec<_>, Error>>()?;
        Ok((Tensor::cat(rows, 0), places.iter().map(|place| self.captions[*place].as_str()).collect()))
    }

    /// How many were drawn so far: all that is needed to go on.
    pub(crate) fn drawn(&self) -> u64 {
        self.drawn
    }

    /// Goes on after so many.
    pub(crate) fn seek(&mut self, drawn: u64) {
        self.drawn = drawn;
    }
}

/// Draws pictures and encodes them, as many at once as a bounded memory allows.
fn drawn<F: Family>(
    count: usize,
    dataset: &dyn Dataset,
    model: &Model<F>,
    seed: u64,
    device: &Device,
) -> Result<(Samples, Vec<String>), Error> {
    let mut noise = Noise::stream(seed, "reals");
    let (mut kept, mut all) = (Vec::new(), Vec::new());
    let side = dataset.size()? as usize;
    for range in chunks::ranges(count, chunks::of_pictures(side, side)) {
        let examples = range.map(|_| dataset.draw(&mut noise)).collect::<Result<Vec<_>, _>>()?;
        let (images, captions): (Vec<_>, Vec<_>) =
            examples.into_iter().map(|example| (example.image, example.caption)).unzip();
        let samples = model.codec.encode_mode(from_rgb8(&images, device));
        check(model, dataset, &samples)?;
        kept.extend((0..images.len()).map(|row| samples.clone().narrow(0, row, 1)));
        all.extend(captions);
    }
    Ok((Samples::Kept(kept), all))
}
