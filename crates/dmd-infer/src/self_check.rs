//! Checks that a device computes what the CPU computes, for the shapes that a model needs.
//!
//! Faults of kernels depend on shapes: a driver may multiply some matrices correctly and others not, or silently return
//! zeros. Every distinct operation of the model's networks is therefore run on random inputs. Then the model itself is
//! run from a prompt to its picture. Each stage starts from the reference's input, so that a fault of an earlier stage
//! does not hide one of a later stage.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use dmd_core::Noise;
use dmd_kernels::{Operation, recorded};

use dmd_model::{OpenOptions, TextFeatures, check_dtype};

use crate::clock::Instant;
use crate::{Error, Method, Pipeline, PipelineBuilder, Request};

/// One comparison: what was compared, and the outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// The operation with its shape, or the stage of the model.
    pub what: String,
    /// How often a picture needs this operation or stage.
    pub count: usize,
    /// The outcome of the comparison.
    pub outcome: Outcome,
}

/// The result of [`self_check`].
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// Every comparison.
    pub checks: Vec<Check>,
    /// Notes for the user about how the model was opened (see [`Pipeline::notes`]).
    pub notes: Vec<String>,
}

/// The outcome of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The device returned a result.
    Compared(Comparison),
    /// The device returned no result.
    Failed {
        /// The message of the error or panic.
        reason: String,
    },
}

/// The difference between a device's result and the reference's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Root mean square of the differences, divided by that of the reference. It is infinite if a value is not finite.
    pub relative: f64,
    /// The largest [`Self::relative`] that passes.
    pub allowed: f64,
    /// Time of the first run, including compilation and tuning of kernels.
    pub first: Duration,
    /// Time of the second run.
    pub warm: Duration,
}

impl Check {
    /// Whether the device's result is within the allowed error.
    pub fn passed(&self) -> bool {
        matches!(&self.outcome, Outcome::Compared(found) if found.relative <= found.allowed)
    }
}

/// The allowed relative error of an operation. In single precision, different orders of summation differ by 1e-6 or
/// less, but attention may multiply in half precision on cards made for it. In half precision the inputs and the result
/// are rounded, by 2⁻¹¹ (f16) or 2⁻⁸ (bf16) each, and eight roundings are allowed.
fn allowed(operation: &Operation, dtype: FloatDType) -> f64 {
    match (dtype, operation) {
        (FloatDType::F16, _) => 8.0 / 2048.0,
        (FloatDType::BF16, _) => 8.0 / 256.0,
        (_, Operation::Attention { .. }) => 2e-3,
        _ => 1e-4,
    }
}

/// The allowed relative error of a stage that starts from the reference's input. For the text encoder it is that of
/// attention, of which text encoder and UNets largely consist. The conversion to x0 magnifies the UNet's error (by up
/// to 14.6 at t = 999) before it is measured. In half precision, a picture with 35 dB to the reference has an error of
/// 1.8 % of the range, which is about 4 % of the picture's own root mean square.
fn allowed_of_stage(stage: &str, dtype: FloatDType) -> f64 {
    match (dtype, stage) {
        (_, TEXT) => 2e-3, // the text encoder stays in single precision
        (FloatDType::F32, LATENTS) => 1e-2,
        (FloatDType::F32, _) => 4e-3,
        _ => 4e-2,
    }
}

const TEXT: &str = "text encoder";
const LATENTS: &str = "UNet and the step to x0";
const PICTURE: &str = "decoder";

/// Runs every distinct operation that the model needs for a picture, then the model itself. Both run on the options'
/// device in the options' float type, and on `reference` in single precision. The operations are those that the run of
/// the model on `reference` recorded. `seen` is called with each check and with the total number of checks.
///
/// # Errors
///
/// When the model cannot be read, or the device does not support the float type. A wrong result of the device is no
/// error (see [`Check::passed`]).
pub fn self_check(
    options: &OpenOptions,
    reference: &Device,
    seen: &mut dyn FnMut(&Check, usize),
) -> Result<Checked, Error> {
    let (device, dtype) = (&options.device, options.dtype);
    check_dtype(device, dtype)?;
    let plain = OpenOptions { device: reference.clone(), dtype: FloatDType::F32, ..options.clone() };
    let (stages, operations) = recorded(|| Stages::run(plain));
    let stages = stages?;
    let total = operations.len() + 3;
    let mut all = Vec::with_capacity(total);
    for (operation, count) in &operations {
        let check = check_operation(operation, *count, device, dtype, reference);
        seen(&check, total);
        all.push(check);
    }
    for check in stages.compare(options)? {
        seen(&check, total);
        all.push(check);
    }
    Ok(Checked { checks: all, notes: stages.notes })
}

/// Compares one operation on random inputs.
fn check_operation(
    operation: &Operation,
    count: usize,
    device: &Device,
    dtype: FloatDType,
    reference: &Device,
) -> Check {
    let mut noise = Noise::stream(0, "self-check");
    let values: Vec<Vec<f32>> = operation
        .inputs()
        .iter()
        .map(|input| {
            let normals = noise.normals(input.shape.iter().product());
            normals.into_iter().map(|z| (input.mean + input.deviation * z) as f32).collect()
        })
        .collect();
    let on = |device: &Device, dtype: FloatDType| {
        let tensor = |values: &Vec<f32>| {
            let data = TensorData::new(values.clone(), [values.len()]);
            Tensor::<1>::from_data(data, device).cast(dtype)
        };
        values.iter().map(tensor).collect::<Vec<_>>()
    };
    let expected = read(operation.apply(&on(reference, FloatDType::F32)));
    let outcome = compared(&expected, allowed(operation, dtype), || {
        let inputs = on(device, dtype);
        Box::new(move || Ok(read(operation.apply(&inputs))))
    });
    Check { what: operation.to_string(), count, outcome }
}

fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.cast(FloatDType::F32).into_data().iter::<f32>().collect()
}

type Run<'a> = Box<dyn FnMut() -> Result<Vec<f32>, Error> + 'a>;

/// Runs twice and compares the second result. A panic of the backend counts as a failure.
fn compared<'a>(expected: &[f32], allowed: f64, prepare: impl FnOnce() -> Run<'a>) -> Outcome {
    let both = catch_unwind(AssertUnwindSafe(|| -> Result<_, Error> {
        let mut run = prepare();
        let start = Instant::now();
        run()?;
        let first = start.elapsed();
        let start = Instant::now();
        let found = run()?;
        Ok((found, first, start.elapsed()))
    }));
    match both {
        Ok(Ok((found, first, warm))) => {
            Outcome::Compared(Comparison { relative: relative(&found, expected), allowed, first, warm })
        }
        Ok(Err(error)) => Outcome::Failed { reason: error.to_string() },
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let reason = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Outcome::Failed { reason: reason.unwrap_or("the backend panicked").to_owned() }
        }
    }
}

/// Root mean square of the differences, divided by that of the expected values.
fn relative(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() || found.iter().any(|value| !value.is_finite()) {
        return f64::INFINITY;
    }
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let size = squares(&mut expected.iter().map(|value| f64::from(*value)));
    let off = squares(&mut found.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    (off / size.max(f64::MIN_POSITIVE)).sqrt()
}

const PROMPT: &str = "a red circle above a blue square";

/// The outputs of the reference for a prompt, stage by stage.
struct Stages {
    features: TextFeatures,
    /// The values of the features.
    text: Vec<f32>,
    latents: Vec<f32>,
    latent_shape: [usize; 4],
    /// Pixel levels from 0 to 1.
    picture: Vec<f32>,
    /// Notes for the user about how the model was opened.
    notes: Vec<String>,
}

/// A request for one picture from the generator or, without a generator, from the teacher in two steps without
/// guidance.
fn request(pipeline: &Pipeline) -> Request {
    let method = match pipeline.generator_steps() {
        Some(_) => Method::Distilled,
        None => Method::teacher(2, 1.0),
    };
    Request::new([PROMPT]).with_method(method).with_seeds([0])
}

fn noise(pipeline: &Pipeline) -> Tensor<4> {
    let (height, width) = pipeline.default_size();
    pipeline.noise(&[0], height, width)
}

/// All values of text features.
fn values_of(text: &TextFeatures) -> Vec<f32> {
    let mut values = read(text.words.clone());
    values.extend(text.pooled.iter().flat_map(|pooled| read(pooled.clone())));
    values
}

/// Copies a tensor to another device, through the host.
fn moved<const D: usize>(tensor: &Tensor<D>, device: &Device) -> Tensor<D> {
    Tensor::from_data(tensor.clone().into_data(), device)
}

fn picture(pipeline: &Pipeline, latents: Tensor<4>) -> Result<Vec<f32>, Error> {
    let pictures = pipeline.decode(latents)?;
    Ok(pictures.iter().flat_map(|picture| picture.as_raw()).map(|level| f32::from(*level) / 255.0).collect())
}

impl Stages {
    fn run(options: OpenOptions) -> Result<Self, Error> {
        let pipeline = PipelineBuilder::from(options).generator_first().build()?;
        let text = pipeline.encode_prompt(&[PROMPT])?;
        let latents = pipeline.denoise_from(&request(&pipeline), noise(&pipeline), &text, &mut ())?;
        Ok(Self {
            text: values_of(&text),
            features: text,
            latent_shape: latents.dims(),
            latents: read(latents.clone()),
            picture: picture(&pipeline, latents)?,
            notes: pipeline.notes().to_vec(),
        })
    }

    fn compare(&self, options: &OpenOptions) -> Result<Vec<Check>, Error> {
        let (device, dtype) = (&options.device, options.dtype);
        let pipeline = PipelineBuilder::from(options.clone()).generator_first().build()?;
        let pipeline = &pipeline;
        let check = |what: &str, outcome| Check { what: what.to_owned(), count: 1, outcome };
        let text = || TextFeatures {
            words: moved(&self.features.words, device),
            pooled: self.features.pooled.as_ref().map(|pooled| moved(pooled, device)),
        };
        let latents = || Tensor::from_data(TensorData::new(self.latents.clone(), self.latent_shape), device);
        let encoded = compared(&self.text, allowed_of_stage(TEXT, dtype), || {
            Box::new(|| Ok(values_of(&pipeline.encode_prompt(&[PROMPT])?)))
        });
        let denoised = compared(&self.latents, allowed_of_stage(LATENTS, dtype), || {
            let (request, z, text) = (request(pipeline), noise(pipeline), text());
            Box::new(move || Ok(read(pipeline.denoise_from(&request, z.clone(), &text, &mut ())?)))
        });
        let decoded = compared(&self.picture, allowed_of_stage(PICTURE, dtype), || {
            let latents = latents();
            Box::new(move || picture(pipeline, latents.clone()))
        });
        Ok(vec![check(TEXT, encoded), check(LATENTS, denoised), check(PICTURE, decoded)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(outcome: Outcome) -> Check {
        Check { what: "product".to_owned(), count: 1, outcome }
    }

    /// Results that drivers have returned: correct numbers, silent zeros, NaNs, too few numbers, a panic.
    #[test]
    fn wrong_devices_are_found() {
        let expected = [1.0, -2.0, 3.0];
        let giving = |values: Vec<f32>| {
            check(compared(&expected, 1e-4, || Box::new(move || Ok(values.clone())))).passed()
        };
        assert!(giving(vec![1.0, -2.0, 3.000_01]));
        assert!(!giving(vec![1.0, -2.0, 3.001]));
        assert!(!giving(vec![0.0; 3]));
        assert!(!giving(vec![1.0, f32::NAN, 3.0]));
        assert!(!giving(vec![1.0, -2.0]));
        let panicking = check(compared(&expected, 1e-4, || panic!("no such kernel")));
        assert!(!panicking.passed());
        assert_eq!(panicking.outcome, Outcome::Failed { reason: "no such kernel".to_owned() });
    }
}
