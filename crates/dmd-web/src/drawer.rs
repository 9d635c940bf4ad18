use dmd_infer::{MemoryFolder, Pipeline, Request, Timings, encode_png};
use dmd_kernels::device;
use image::RgbImage;

use crate::Error;

/// The largest whole number up to which JavaScript's numbers have no gap.
const MOST: f64 = 9_007_199_254_740_991.0;

/// An opened model that draws on the CPU, a picture at a time, with its distilled generator.
#[derive(Debug)]
pub struct Drawer {
    pipeline: Pipeline,
    /// The model's name in a picture's parameters.
    model: String,
}

impl Drawer {
    /// The small model that is a part of the module: coloured shapes, 64×64 pixels.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] without the feature `flex`.
    #[cfg(feature = "embedded")]
    pub fn embedded() -> Result<Self, Error> {
        let pipeline = Pipeline::embedded(&device::open("flex")?)?;
        Ok(Self { pipeline, model: "shapes".to_owned() })
    }

    /// A model by its files: those of a model folder in diffusers' layout, with names such as `vae/config.json`, in any
    /// order. `model` is its name in a picture's parameters. Weights are computed with in f32, whatever their files hold.
    ///
    /// # Errors
    ///
    /// When a file is missing or damaged, or the parts do not fit each other. [`Error::Device`] without the feature `flex`.
    pub fn from_files(
        model: impl Into<String>,
        files: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> Result<Self, Error> {
        let folder = MemoryFolder::new(files);
        let pipeline = Pipeline::from_dir(folder.path(), &device::open("flex")?)?;
        Ok(Self { pipeline, model: model.into() })
    }

    /// Width and height of its pictures in pixels.
    pub fn size(&self) -> (usize, usize) {
        let (height, width) = self.pipeline.default_size();
        (width, height)
    }

    /// Draws a picture. The same prompt and seed give the same picture again. A seed is PyTorch's, as everywhere in this
    /// workspace, and a float because JavaScript's numbers are.
    ///
    /// # Errors
    ///
    /// When the prompt is empty or too long, the seed is no whole number from 0 to 2⁵³ − 1, or the model has no generator of
    /// few steps.
    pub fn draw(&self, prompt: &str, seed: f64) -> Result<Picture, Error> {
        if !(seed.fract() == 0.0 && (0.0..=MOST).contains(&seed)) {
            return Err(Error::Infer(dmd_infer::Error::Setting {
                name: "seed",
                value: seed.to_string(),
                wanted: format!("a whole number from 0 to {MOST}"),
            }));
        }
        let request = Request::new([prompt]).with_seeds([seed as u64]);
        let drawn = self.pipeline.generate(&request)?;
        let image = drawn.pictures.into_iter().next().unwrap_or_default();
        let parameters = self.pipeline.describe(&request, 0, image.dimensions(), &self.model);
        Ok(Picture { image, timings: drawn.timings, parameters })
    }
}

/// A picture, how long it took, and what it shows.
#[derive(Debug, Clone)]
pub struct Picture {
    image: RgbImage,
    timings: Timings,
    parameters: String,
}

impl Picture {
    /// Its pixels.
    pub fn image(&self) -> &RgbImage {
        &self.image
    }

    /// Its pixels row by row, four bytes each: red, green, blue and 255.
    pub fn rgba(&self) -> Vec<u8> {
        self.image.pixels().flat_map(|pixel| [pixel.0[0], pixel.0[1], pixel.0[2], u8::MAX]).collect()
    }

    /// The bytes of a PNG file, with [`Self::parameters`] under that keyword.
    ///
    /// # Errors
    ///
    /// When the encoder fails.
    pub fn png(&self) -> Result<Vec<u8>, Error> {
        Ok(encode_png(&self.image, &[("parameters", &self.parameters)])?)
    }

    /// Prompt, seed and the other settings as text, in the form that other programs write into their PNGs.
    pub fn parameters(&self) -> &str {
        &self.parameters
    }

    /// Wall clock by stage.
    pub fn timings(&self) -> Timings {
        self.timings
    }
}
