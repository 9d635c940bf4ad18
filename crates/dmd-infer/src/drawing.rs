//! Draws one request with one model. The request is checked and planned once, then its pictures are drawn a few at a
//! time.

mod conditions;

use std::ops::{ControlFlow, Range};

use burn::tensor::{Device, Tensor};
use dmd_core::{Guided, Noise};
use dmd_model::pixels::{from_rgb8, to_rgb8};
use dmd_model::{ConditionOf, Conditioner, Family, Model, Plan, TextFeatures, with_model};
use image::RgbImage;

use crate::checks::{check, check_inputs, finite, given_latents, seeds_of, size_of};
use crate::clock::Instant;
use crate::observer::{Observer, Progress, Stage};
use crate::request::{Drawn, Request, TeacherSettings, Timings};
use crate::{Error, Pipeline};

/// Total number of sample positions that go through the networks in one batch, if the number of pictures is not set.
const POSITIONS: usize = 8192;
/// Maximum number of pictures in such a batch. A larger batch of small pictures is no faster and needs more memory.
const PICTURES: usize = 32;

impl Pipeline {
    /// How many pictures of this height and width go through the networks in one batch. A request with more pictures is
    /// drawn in several batches.
    pub fn together(&self, (height, width): (usize, usize)) -> usize {
        let factor = with_model!(&self.model, model => model.codec.factor());
        self.at_a_time.unwrap_or_else(|| usual((height / factor, width / factor)))
    }

    /// Checks that this model can draw a request, without computing anything.
    ///
    /// # Errors
    ///
    /// The errors of [`Self::generate`] that can be known beforehand.
    pub fn check(&self, request: &Request) -> Result<(), Error> {
        with_model!(&self.model, model => Drawing::new(model, request).map(drop))
    }

    /// Draws a request's pictures, a few at a time. A picture depends only on its own prompt and seed.
    ///
    /// # Errors
    ///
    /// When the request is not possible for this model, or a stage's output is not finite.
    pub fn generate(&self, request: &Request) -> Result<Drawn, Error> {
        self.generate_with(request, &mut ())
    }

    /// As [`Self::generate`], with an observer that is called at every stage, step and picture, and that may end the
    /// request.
    ///
    /// # Errors
    ///
    /// As [`Self::generate`]; [`Error::Cancelled`] when the observer ends the request.
    pub fn generate_with(&self, request: &Request, observer: &mut dyn Observer) -> Result<Drawn, Error> {
        with_model!(&self.model, model => Drawing::new(model, request)?.draw(self.at_a_time, observer))
    }

    /// As [`Self::generate_with`], but the pictures are not kept. The observer receives each of them, so that a request
    /// of thousands of pictures needs only the memory of a few.
    ///
    /// # Errors
    ///
    /// As [`Self::generate_with`].
    pub fn generate_each(&self, request: &Request, observer: &mut dyn Observer) -> Result<Timings, Error> {
        with_model!(&self.model, model => {
            Drawing::new(model, request)?.draw_each(self.at_a_time, observer, &mut drop)
        })
    }

    /// The samples that a request's method makes from unit noise `z` and text features,
    /// `[batch, channels, height, width]`. There is one seed per row. A request that starts from a picture needs
    /// [`Self::generate`].
    ///
    /// # Errors
    ///
    /// As [`Self::generate`].
    pub fn denoise_from(
        &self,
        request: &Request,
        z: Tensor<4>,
        text: &TextFeatures,
        observer: &mut dyn Observer,
    ) -> Result<Tensor<4>, Error> {
        with_model!(&self.model, model => {
            Drawing::of_inputs(model, request, &z, text)?.denoise_inputs(z, text, observer)
        })
    }
}

/// The default number of samples of this height and width in one batch.
fn usual((height, width): (usize, usize)) -> usize {
    (POSITIONS / (height * width).max(1)).clamp(1, PICTURES)
}

/// A request that was checked and can be drawn with this model.
pub(crate) struct Drawing<'a, F: Family> {
    model: &'a Model<F>,
    request: &'a Request,
    seeds: Vec<u64>,
    /// Height and width of a sample.
    size: (usize, usize),
    /// The plan of the sampler's steps, for the teacher and for a generator whose recipe has a sampler. Other
    /// generators renoise their samples.
    plan: Option<Plan>,
    /// The teacher's settings, if the teacher draws.
    teacher: Option<&'a TeacherSettings>,
}

/// One batch of a request's pictures.
struct Chunk<C> {
    rows: Range<usize>,
    condition: C,
    noises: Vec<Noise>,
}

impl<'a, F: Family> Drawing<'a, F> {
    /// Checks a request as far as possible without calling a network, and plans the drawing.
    pub(crate) fn new(model: &'a Model<F>, request: &'a Request) -> Result<Self, Error> {
        let seeds = seeds_of(request)?;
        let plan = check(model, request)?;
        let (height, width) = size_of(model, request)?;
        let factor = model.codec.factor();
        let size = (height / factor, width / factor);
        Ok(Self { model, request, seeds, size, plan, teacher: request.teacher() })
    }

    /// As [`Self::new`], for given samples and features.
    pub(crate) fn of_inputs(
        model: &'a Model<F>,
        request: &'a Request,
        z: &Tensor<4>,
        text: &TextFeatures,
    ) -> Result<Self, Error> {
        let plan = check(model, request)?;
        check_inputs(model, request, z, text)?;
        let [rows, _, height, width] = z.dims();
        let seeds = match request.seeds.is_empty() {
            true => (0..rows as u64).collect(),
            false => request.seeds.clone(),
        };
        Ok(Self { model, request, seeds, size: (height, width), plan, teacher: request.teacher() })
    }

    /// Draws all pictures and returns them.
    pub(crate) fn draw(&self, at_a_time: Option<usize>, observer: &mut dyn Observer) -> Result<Drawn, Error> {
        let mut pictures = Vec::with_capacity(self.seeds.len());
        let timings = self.draw_each(at_a_time, observer, &mut |picture| pictures.push(picture))?;
        Ok(Drawn { pictures, seeds: self.seeds.clone(), timings })
    }

    /// Draws all pictures. Passes each one to the observer and then to `take`.
    pub(crate) fn draw_each(
        &self,
        at_a_time: Option<usize>,
        observer: &mut dyn Observer,
        take: &mut dyn FnMut(RgbImage),
    ) -> Result<Timings, Error> {
        let count = self.seeds.len();
        let at_a_time = at_a_time.unwrap_or(usual(self.size));
        let mut timings = Timings::default();
        for start in (0..count).step_by(at_a_time) {
            let rows = start..(start + at_a_time).min(count);
            for (place, picture) in rows.clone().zip(self.draw_rows(rows, observer, &mut timings)?) {
                observer.on_picture(place, self.seeds[place], &picture);
                take(picture);
            }
        }
        Ok(timings)
    }

    fn draw_rows(
        &self,
        rows: Range<usize>,
        observer: &mut dyn Observer,
        timings: &mut Timings,
    ) -> Result<Vec<RgbImage>, Error> {
        enter(observer, Stage::Text, 0)?;
        let start = Instant::now();
        let condition = self.condition(rows.clone())?;
        let encoded = Instant::now();
        let open = |seed: &u64| self.request.noise.open(*seed);
        let noises = self.seeds[rows.clone()].iter().map(open).collect();
        let mut chunk = Chunk { rows, condition, noises };
        let x = self.first_input(&mut chunk, observer)?;
        enter(observer, Stage::Denoising, 0)?;
        let samples = self.denoise(x, &mut chunk, observer)?;
        let denoised = Instant::now();
        enter(observer, Stage::Decoding, self.steps()?)?;
        let pictures = to_rgb8(finite(self.model.codec.decode(samples), "autoencoder")?);
        timings.text += encoded - start;
        timings.denoising += denoised - encoded;
        timings.decoding += denoised.elapsed();
        Ok(pictures)
    }

    /// Denoises given noise with given features.
    pub(crate) fn denoise_inputs(
        &self,
        z: Tensor<4>,
        text: &TextFeatures,
        observer: &mut dyn Observer,
    ) -> Result<Tensor<4>, Error> {
        let condition = self.sized(self.model.conditioner.features(text.clone())?);
        let mut noises: Vec<Noise> = self.seeds.iter().map(|seed| self.request.noise.open(*seed)).collect();
        // Advance each stream behind the first noise, as if that had been drawn from the stream.
        for noise in &mut noises {
            noise.normals(z.dims()[1..].iter().product());
        }
        let x = self.start(z);
        let mut chunk = Chunk { rows: 0..self.seeds.len(), condition, noises };
        self.denoise(x, &mut chunk, observer)
    }

    fn unit_noise(&self, noises: &mut [Noise]) -> Tensor<4> {
        let (height, width) = self.size;
        rows(noises, [1, self.model.shape()[0], height, width], &self.model.device)
    }

    /// The input of the first network call.
    fn first_input(
        &self,
        chunk: &mut Chunk<ConditionOf<F>>,
        observer: &mut dyn Observer,
    ) -> Result<Tensor<4>, Error> {
        let noises = &mut chunk.noises;
        let start = self.teacher.and_then(|settings| settings.start.as_ref());
        if let Some((plan, start)) = self.plan.as_ref().zip(start) {
            enter(observer, Stage::Encoding, 0)?;
            let image = from_rgb8(std::slice::from_ref(&start.picture), &self.model.device);
            let image = image.repeat_dim(0, noises.len());
            let x0 = self.model.codec.encode(image, |_| self.unit_noise(noises));
            return Ok(plan.start_from(finite(x0, "autoencoder's encoder")?, self.unit_noise(noises)));
        }
        // The noise is drawn even if latents are given, so that later noise from the seeds stays the same.
        let mut z = self.unit_noise(noises);
        if let Some(given) = &self.request.latents {
            z = given_latents(given.clone().narrow(0, chunk.rows.start, chunk.rows.len()))?;
        }
        Ok(self.start(z))
    }

    /// The input of the first network call, from unit noise.
    fn start(&self, z: Tensor<4>) -> Tensor<4> {
        match &self.plan {
            Some(plan) => plan.start(z),
            None => z,
        }
    }

    /// The number of sampling steps.
    fn steps(&self) -> Result<usize, Error> {
        Ok(match &self.plan {
            Some(plan) => plan.calls(),
            None => self.model.generator()?.recipe.steps(),
        })
    }

    /// Computes clean samples with the distilled generator or the teacher.
    fn denoise(
        &self,
        x: Tensor<4>,
        chunk: &mut Chunk<ConditionOf<F>>,
        observer: &mut dyn Observer,
    ) -> Result<Tensor<4>, Error> {
        let (condition, noises) = (&chunk.condition, &mut chunk.noises);
        let steps = self.steps()?;
        let mut done = 0;
        let on_step = &mut |step: usize, x0: &Tensor<4>| {
            done = step;
            observer.on_step(&Progress { step, steps, pictures: chunk.rows.clone(), x0 });
            if observer.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let draw = &mut || self.unit_noise(noises);
        let samples = match (&self.plan, self.teacher) {
            (None, _) => {
                let generator = &self.model.generator()?.network;
                generator.walk(steps, x, condition, draw, on_step).continue_value()
            }
            (Some(plan), None) => {
                plan.run(&self.model.generator()?.network.denoiser, x, condition, draw, on_step)
            }
            (Some(plan), Some(settings)) => {
                let scale = settings.guidance_scale.unwrap_or(self.model.guidance_scale);
                // Without guidance there is no unconditional branch, so its condition is not needed.
                let negative = match scale == 1.0 {
                    true => condition.clone(),
                    false => self.negative(chunk.rows.clone(), settings)?,
                };
                let prediction = self.model.noising.prediction();
                let teacher = Guided::new(self.model.teacher()?, negative, scale)
                    .with_rescale(settings.guidance_rescale, prediction);
                plan.run(&teacher, x, condition, draw, on_step)
            }
        };
        finite(samples.ok_or(Error::Cancelled { steps: done })?, "UNet")
    }
}

/// Tells the observer that a stage begins, after `steps` sampling steps. Returns an error if the request is cancelled.
fn enter(observer: &mut dyn Observer, stage: Stage, steps: usize) -> Result<(), Error> {
    observer.on_stage(stage);
    if observer.cancelled() { Err(Error::Cancelled { steps }) } else { Ok(()) }
}

/// Unit noise, with one row of `shape` from each stream.
pub(crate) fn rows(noises: &mut [Noise], shape: [usize; 4], device: &Device) -> Tensor<4> {
    Tensor::cat(noises.iter_mut().map(|noise| noise.normal(shape, device)).collect(), 0)
}
