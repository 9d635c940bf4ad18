//! What a model is asked to draw, and the real pictures that its own are compared with.

use std::path::Path;

use anyhow::ensure;
use dmd_core::Noise;
use dmd_data::shapes::{Scene, Split};
use dmd_data::{Dataset, ImageFolder, Shapes};
use dmd_eval::FeatureSpace;
use dmd_eval::frechet::{Accumulated, Moments};
use image::RgbImage;

use super::{BATCH, COMPARED};
use crate::commands::progress;

/// Real pictures of the shapes set that distances are taken to.
const REAL: usize = 4000;

/// Prompts with the data set that they are from.
pub(super) struct Task {
    pub(super) captions: Vec<String>,
    pub(super) dataset: Box<dyn Dataset>,
    /// What the captions describe, for the shapes set.
    pub(super) scenes: Vec<Scene>,
    /// Seed of the real pictures of the shapes set.
    seed: u64,
}

/// Features of the real pictures.
pub(super) struct Real {
    pub(super) moments: Moments,
    /// Some of the rows, for precision, recall and kernel distance.
    pub(super) compared: Vec<Vec<f64>>,
}

impl Task {
    /// Held-out prompts of the shapes set.
    pub(super) fn shapes(prompts: usize, seed: u64) -> Self {
        let mut noise = Noise::stream(seed, "evaluation");
        let scenes: Vec<Scene> = (0..prompts).map(|_| Scene::draw(Split::HeldOut, &mut noise)).collect();
        let captions = scenes.iter().map(|scene| scene.caption.clone()).collect();
        Self { captions, dataset: Box::new(Shapes), scenes, seed }
    }

    /// The first captions of a folder, compared with all its pictures at a size.
    pub(super) fn folder(path: &Path, size: u32, prompts: usize) -> anyhow::Result<Self> {
        let folder = ImageFolder::open(path, size)?;
        ensure!(folder.len() >= 2, "{path:?} has too few pictures to measure anything");
        let captions = folder.entries().take(prompts).map(|entry| entry.caption.to_owned()).collect();
        Ok(Self { captions, dataset: Box::new(folder), scenes: Vec::new(), seed: 0 })
    }

    /// The real pictures' features; a few pictures are in memory at a time.
    pub(super) fn real(&self, space: &dyn FeatureSpace) -> anyhow::Result<Real> {
        let count = self.dataset.count().unwrap_or(REAL);
        let mut noise = Noise::stream(self.seed, "real pictures");
        let (mut all, mut compared) = (Accumulated::default(), Vec::new());
        // Evenly from the list, which may be sorted.
        let each = count.div_ceil(COMPARED).max(1);
        for start in (0..count).step_by(BATCH) {
            let places = start..count.min(start + BATCH);
            let pictures: Vec<RgbImage> = match self.dataset.count() {
                Some(_) => {
                    places.map(|place| Ok(self.dataset.get(place)?.image)).collect::<anyhow::Result<_>>()?
                }
                None => places.map(|_| Scene::draw(Split::HeldOut, &mut noise).render()).collect(),
            };
            let rows = space.features(&pictures);
            all.add(&rows);
            let places = start..;
            compared.extend(places.zip(rows).filter(|(place, _)| place % each == 0).map(|(_, row)| row));
            progress::at(format!("{} of {count} real pictures measured", count.min(start + BATCH)));
        }
        Ok(Real { moments: all.moments(), compared })
    }

    /// How many pictures show what their captions say; `None` where the data set cannot judge.
    pub(super) fn right(&self, captions: &[String], pictures: &[RgbImage]) -> Option<usize> {
        let judged = captions.iter().zip(pictures);
        let judged = judged.map(|(caption, picture)| self.dataset.shows(caption, picture));
        Some(judged.collect::<Option<Vec<bool>>>()?.into_iter().filter(|right| *right).count())
    }
}
