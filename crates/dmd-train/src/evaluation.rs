//! Measures of a generator's pictures while it is trained.

use std::cell::OnceCell;
use std::sync::Arc;

use burn::tensor::Device;
use dmd_core::Noise;
use dmd_data::Dataset;
use dmd_eval::frechet::{Accumulated, Moments};
use dmd_eval::{ClipScore, FeatureSpace, InceptionSpace, RandomConv};
use image::RgbImage;

use crate::config::{EvaluationSection, require};
use crate::{Error, chunks};

/// Pictures of the same prompts and noises, measured again and again.
pub(crate) struct Evaluation {
    prompts: Vec<String>,
    dataset: Arc<dyn Dataset>,
    distance: Option<Distance>,
    clip: Option<ClipScore>,
}

/// The Fréchet distance to real pictures.
struct Distance {
    space: Box<dyn FeatureSpace>,
    figure: &'static str,
    /// How many real pictures.
    reals: usize,
    /// Their moments, from the first evaluation on.
    real: OnceCell<Moments>,
}

impl std::fmt::Debug for Evaluation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluation").field("prompts", &self.prompts.len()).finish_non_exhaustive()
    }
}

/// Real pictures that are measured at a time.
const AT_ONCE: usize = 64;

impl Evaluation {
    /// What a section asks for, of a generator that draws pictures of a height and width and is trained on a data set.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] where nothing could be measured, or the real pictures have another size than the generator's;
    /// when a file cannot be read.
    pub(crate) fn new(
        section: &EvaluationSection,
        dataset: &Arc<dyn Dataset>,
        (height, width): (usize, usize),
        device: &Device,
    ) -> Result<Self, Error> {
        let dataset = match &section.data {
            Some(data) => data.open()?,
            None => dataset.clone(),
        };
        let prompts = dataset.prompts(section.prompts, &mut Noise::stream(0, "evaluation"))?;
        let mut distance = None;
        let side = match dataset.size() {
            Ok(side) => Some(side),
            Err(dmd_data::Error::NoPictures { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(side) = side {
            let fits = (side as usize, side as usize) == (height, width);
            let must = "pictures of the size that the generator draws";
            require(fits, "evaluation.data", format!("pictures of {side}×{side}"), must)?;
            let (space, figure): (Box<dyn FeatureSpace>, _) = match &section.inception {
                Some(path) => (Box::new(InceptionSpace::from_file(path, device)?), "frechet_inception"),
                None => {
                    let fits = height.is_multiple_of(16) && width.is_multiple_of(16);
                    let must = "given: the small network in its place takes sides that are multiples of 16";
                    require(fits, "evaluation.inception", "none", must)?;
                    (Box::new(RandomConv::new(device)), "frechet_random_conv")
                }
            };
            let reals = dataset.count().map_or(section.reals, |count| section.reals.min(count));
            require(reals >= 2, "evaluation.data", dataset.name(), "at least two pictures")?;
            distance = Some(Distance { space, figure, reals, real: OnceCell::new() });
        }
        let clip = section.clip.as_ref().map(|folder| ClipScore::from_dir(folder, device)).transpose()?;
        let must = "pictures, or evaluation.clip be given: prompts alone leave nothing to measure";
        require(distance.is_some() || clip.is_some(), "evaluation.data", dataset.name(), must)?;
        Ok(Self { prompts, dataset, distance, clip })
    }

    /// The figures of the pictures that `draw` makes of some prompts at a time, with noise from the stream it is given;
    /// `None` when it gives none, or `stopped` said so.
    ///
    /// # Errors
    ///
    /// What `draw`, the data set or a measure returns.
    pub(crate) fn measure(
        &self,
        at_once: usize,
        mut draw: impl FnMut(&[String], &mut Noise) -> Result<Option<Vec<RgbImage>>, Error>,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<(&'static str, f64)>>, Error> {
        let mut noise = Noise::stream(0, "evaluated pictures");
        let (mut features, mut cosines, mut right) = (Accumulated::default(), 0.0, Some(0));
        for prompts in self.prompts.chunks(at_once) {
            if stopped() {
                return Ok(None);
            }
            let Some(pictures) = draw(prompts, &mut noise)? else { return Ok(None) };
            if let Some(distance) = &self.distance {
                features.add(&distance.space.features(&pictures));
            }
            if let Some(clip) = &self.clip {
                cosines += clip.cosines(&pictures, prompts)?.iter().sum::<f64>();
            }
            for (prompt, picture) in prompts.iter().zip(&pictures) {
                let shows = right.and_then(|_| self.dataset.shows(prompt, picture));
                right = right.zip(shows).map(|(right, shows)| right + usize::from(shows));
            }
        }
        let (count, mut figures) = (self.prompts.len() as f64, Vec::new());
        if let Some(distance) = &self.distance {
            let Some(real) = distance.real(self.dataset.as_ref(), stopped)? else { return Ok(None) };
            figures.push((distance.figure, real.distance(&features.moments())));
        }
        figures.extend(self.clip.as_ref().map(|_| ("clip_score", cosines / count)));
        figures.extend(right.map(|right| ("accuracy", right as f64 / count)));
        Ok(Some(figures))
    }
}

impl Distance {
    /// The moments of the real pictures, evenly from a list or drawn.
    fn real(&self, dataset: &dyn Dataset, stopped: &dyn Fn() -> bool) -> Result<Option<&Moments>, Error> {
        if let Some(real) = self.real.get() {
            return Ok(Some(real));
        }
        let mut noise = Noise::stream(0, "real pictures of the evaluation");
        let mut all = Accumulated::default();
        for range in chunks::ranges(self.reals, AT_ONCE) {
            if stopped() {
                return Ok(None);
            }
            let example = |i: usize| match dataset.count() {
                Some(count) => dataset.get(i * count / self.reals),
                None => dataset.draw(&mut noise),
            };
            let pictures = range.map(example).map(|example| Ok(example?.image));
            all.add(&self.space.features(&pictures.collect::<Result<Vec<_>, Error>>()?));
        }
        Ok(Some(self.real.get_or_init(|| all.moments())))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use dmd_data::Shapes;
    use dmd_data::shapes::{SIZE, Scene, Split};

    use super::*;

    const SIDES: (usize, usize) = (SIZE as usize, SIZE as usize);

    fn section(more: &str) -> EvaluationSection {
        toml::from_str(&format!("every = 1\nprompts = 40\nreals = 60\n{more}")).unwrap()
    }

    fn shapes(section: &EvaluationSection, sides: (usize, usize)) -> Result<Evaluation, Error> {
        let dataset: Arc<dyn Dataset> = Arc::new(Shapes);
        Evaluation::new(section, &dataset, sides, &Device::flex())
    }

    /// A small CLIP with a tokenizer of its vocabulary.
    fn clip() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
        let (model, words) = (["config.json", "model.safetensors"], ["vocab.json", "merges.txt"]);
        for (from, names) in [("clip_score", model), ("clip_quick_gelu", words)] {
            for name in names {
                std::fs::copy(golden.join(from).join(name), folder.path().join(name)).unwrap();
            }
        }
        folder
    }

    /// Pictures of the very scenes are right, those of others are not; the distance is that of their moments to the real
    /// ones; chunks of any size give the same.
    #[test]
    fn figures_of_known_pictures() {
        let folder = clip();
        let clip = ClipScore::from_dir(folder.path(), &Device::flex()).unwrap();
        let evaluation = shapes(&section(&format!("clip = {:?}", folder.path())), SIDES).unwrap();
        let mut noise = Noise::stream(0, "evaluation");
        let scenes: Vec<Scene> = (0..40).map(|_| Scene::draw(Split::HeldOut, &mut noise)).collect();
        let pictures: Vec<RgbImage> =
            scenes.iter().enumerate().map(|(i, _)| scenes[i / 2 * 2].render()).collect();
        let right = scenes
            .iter()
            .zip(&pictures)
            .filter(|(scene, picture)| Shapes.shows(&scene.caption, picture).unwrap());
        let right = right.count();
        assert!((20..30).contains(&right), "every second picture shows another scene: {right}");
        let space = RandomConv::new(&Device::flex());
        let mut noise = Noise::stream(0, "real pictures of the evaluation");
        let real: Vec<RgbImage> = (0..60).map(|_| Shapes.draw(&mut noise).unwrap().image).collect();
        let expected = Moments::of(&space.features(&real)).distance(&Moments::of(&space.features(&pictures)));
        let captions: Vec<String> = scenes.iter().map(|scene| scene.caption.clone()).collect();
        let cosine = clip.cosines(&pictures, &captions).unwrap().iter().sum::<f64>() / 40.0;
        for at_once in [7, 40] {
            let mut drawn = pictures.iter();
            let draw = |prompts: &[String], noise: &mut Noise| {
                noise.uniform(0.0..=1.0, prompts.len());
                Ok(Some(drawn.by_ref().take(prompts.len()).cloned().collect()))
            };
            let figures = evaluation.measure(at_once, draw, &|| false).unwrap().unwrap();
            let [("frechet_random_conv", distance), ("clip_score", score), ("accuracy", accuracy)] =
                figures[..]
            else {
                panic!("{figures:?}")
            };
            // Cosines in f32, of batches of other sizes.
            assert!(cosine.abs() > 1e-4 && (score - cosine).abs() < 1e-6, "{score}, expected {cosine}");
            // Of fewer pictures than features the covariances are singular: roots of sums' rounding, 1e-16.
            assert!(expected > 1e-3 && (distance - expected).abs() < 1e-7, "{distance}, expected {expected}");
            assert_eq!(accuracy, right as f64 / 40.0);
        }
        let asked = std::cell::Cell::new(0);
        let stopped = || asked.replace(asked.get() + 1) == 2;
        let draw = |prompts: &[String], _: &mut Noise| Ok(Some(pictures[..prompts.len()].to_vec()));
        assert!(evaluation.measure(10, draw, &stopped).unwrap().is_none());
        assert_eq!(asked.get(), 3, "it goes on after it was stopped");
    }

    /// What could not be measured is refused before the first step.
    #[test]
    fn evaluations_without_sense_are_refused() {
        let refused = |more: &str, sides| shapes(&section(more), sides).unwrap_err().to_string();
        let sentence = refused("", (512, 512));
        assert!(sentence.contains("evaluation.data = pictures of 64×64"), "{sentence}");
        let folder = tempfile::tempdir().unwrap();
        let prompts = folder.path().join("prompts.txt");
        std::fs::write(&prompts, "one\ntwo\n").unwrap();
        let data = format!("data = {{ kind = \"prompts\", path = {prompts:?} }}");
        let sentence = refused(&data, SIDES);
        assert!(sentence.contains("evaluation.clip"), "{sentence}");
        let picture = folder.path().join("a.png");
        dmd_data::save(&RgbImage::new(8, 8), &picture).unwrap();
        let line = "{\"file_name\": \"a.png\", \"text\": \"one\"}\n";
        std::fs::write(folder.path().join("metadata.jsonl"), line.repeat(2)).unwrap();
        let data = format!("data = {{ kind = \"folder\", path = {:?}, size = 8 }}", folder.path());
        let sentence = refused(&data, (8, 8));
        assert!(
            sentence.contains("evaluation.inception") && sentence.contains("multiples of 16"),
            "{sentence}"
        );
    }
}
