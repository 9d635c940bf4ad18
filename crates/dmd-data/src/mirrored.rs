use std::sync::Arc;

use dmd_core::Noise;
use image::imageops::flip_horizontal;

use crate::dataset::Fnv;
use crate::{Dataset, Entry, Error, Example};

/// A data set with each picture twice: as it is, and mirrored left to right, with the same caption.
///
/// Examples from [`Dataset::count`] of the inner set on are the mirrored ones.
#[derive(Debug, Clone)]
pub struct Mirrored(Arc<dyn Dataset>);

impl Mirrored {
    /// Mirrors the pictures of a data set.
    pub fn new(inner: Arc<dyn Dataset>) -> Self {
        Self(inner)
    }
}

fn mirrored(example: Example) -> Example {
    Example { image: flip_horizontal(&example.image), ..example }
}

impl Dataset for Mirrored {
    fn name(&self) -> String {
        self.0.name()
    }

    fn caption(&self, noise: &mut Noise) -> Result<String, Error> {
        self.0.caption(noise)
    }

    fn draw(&self, noise: &mut Noise) -> Result<Example, Error> {
        let example = self.0.draw(noise)?;
        Ok(if noise.below(2) == 1 { mirrored(example) } else { example })
    }

    fn size(&self) -> Result<u32, Error> {
        self.0.size()
    }

    fn count(&self) -> Option<usize> {
        self.0.count().and_then(|count| count.checked_mul(2))
    }

    fn get(&self, place: usize) -> Result<Example, Error> {
        match self.0.count() {
            Some(count) if place >= count => Ok(mirrored(self.0.get(place - count)?)),
            _ => self.0.get(place),
        }
    }

    /// Those of the inner set, once: one for each of the first half of the examples.
    fn entries(&self) -> Box<dyn Iterator<Item = Entry<'_>> + '_> {
        self.0.entries()
    }

    fn vocabulary(&self) -> Vec<String> {
        self.0.vocabulary()
    }

    fn prompts(&self, count: usize, noise: &mut Noise) -> Result<Vec<String>, Error> {
        self.0.prompts(count, noise)
    }

    fn notes(&self) -> Vec<String> {
        self.0.notes()
    }

    fn fingerprint(&self) -> String {
        let mut hash = Fnv::default();
        hash.add(b"mirrored");
        hash.add(self.0.fingerprint().as_bytes());
        hash.finish()
    }
}
