use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use dmd_data::Dataset;
use dmd_model::{ConditionOf, Conditioner, Family, Model, TextFeatures};

use crate::Error;
use crate::cache::TextCache;

/// Captions that are encoded at once. Which ones belong together is a property of the data set, not of a run: the last
/// bits of a caption's features depend on its company.
const TOGETHER: usize = 8;

/// Most bytes of features that are kept.
const KEPT: usize = 1 << 30;

/// The different captions of a data set, in the order in which they first come, and their features.
#[derive(Debug)]
pub(crate) struct Captions {
    list: Vec<String>,
    places: HashMap<String, usize>,
    cache: Option<Arc<TextCache>>,
    /// Features of captions that are encoded together, by the place of the first one.
    kept: HashMap<usize, TextFeatures>,
    device: Device,
}

/// The different captions of a data set, in the order in which they first come; none where captions are made.
pub(crate) fn different(dataset: &dyn Dataset) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    let captions = dataset.entries().map(|entry| entry.caption);
    captions.filter(|caption| seen.insert(*caption)).map(str::to_owned).collect()
}

/// Which of `count` captions are encoded together with one of them.
pub(crate) fn together(place: usize, count: usize) -> Range<usize> {
    let start = place / TOGETHER * TOGETHER;
    start..(start + TOGETHER).min(count)
}

/// The features of captions that are encoded together.
pub(crate) fn encode<F: Family>(model: &Model<F>, captions: &[String]) -> Result<TextFeatures, Error> {
    let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
    let TextFeatures { words, pooled } = model.conditioner.text_features(&captions)?;
    Ok(TextFeatures { words: words.detach(), pooled: pooled.map(Tensor::detach) })
}

impl Captions {
    /// The captions of a data set, with the features that were computed before, if there are any.
    pub(crate) fn new(dataset: &dyn Dataset, cache: Option<Arc<TextCache>>, device: &Device) -> Self {
        let list = different(dataset);
        let places = list.iter().cloned().zip(0..).collect();
        Self { list, places, cache, kept: HashMap::new(), device: device.clone() }
    }

    /// The conditions of captions, one row each. Captions that the data set does not list are encoded alone.
    pub(crate) fn conditions<F: Family>(
        &mut self,
        model: &Model<F>,
        captions: &[&str],
    ) -> Result<ConditionOf<F>, Error> {
        let places: Option<Vec<usize>> =
            captions.iter().map(|caption| self.places.get(*caption).copied()).collect();
        // A family without text has nothing to encode.
        let (Some(places), Some(_)) = (places, model.conditioner.max_tokens()) else {
            return Ok(model.conditioner.remembered(captions)?);
        };
        let rows = places.iter().map(|place| self.features(model, *place)).collect::<Result<Vec<_>, _>>()?;
        let pooled: Option<Vec<_>> = rows.iter().map(|row| row.pooled.clone()).collect();
        let words = Tensor::cat(rows.into_iter().map(|row| row.words).collect(), 0);
        let features = TextFeatures { words, pooled: pooled.map(|pooled| Tensor::cat(pooled, 0)) };
        Ok(model.conditioner.features(features)?)
    }

    /// The features of one caption.
    fn features<F: Family>(&mut self, model: &Model<F>, place: usize) -> Result<TextFeatures, Error> {
        if let Some(cache) = &self.cache {
            return cache.row(place, &self.device);
        }
        let range = together(place, self.list.len());
        if let Some(kept) = self.kept.get(&range.start) {
            return Ok(kept.rows(place - range.start, 1));
        }
        let features = encode(model, &self.list[range.clone()])?;
        let row = features.rows(place - range.start, 1);
        let bytes = features.words.shape().num_elements() * size_of::<f32>();
        if (self.kept.len() + 1) * bytes <= KEPT {
            self.kept.insert(range.start, features);
        }
        Ok(row)
    }
}
