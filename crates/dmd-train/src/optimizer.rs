use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use dmd_kernels::{AdamWStep, adamw};
use dmd_weights::{Error as WeightsError, Precision, Tensors, read_metadata, write_with_metadata};
use serde::{Deserialize, Serialize};

use crate::parameter::changed;
use crate::{Figures, Gradients};

/// PyTorch's AdamW with its update order: decay by `1 − lr · weight_decay` first, then the step
/// with bias-corrected moments; and PyTorch's clipping by the *global* norm of all gradients.
///
/// Moments are kept in the order in which the module is visited, so that a checkpoint does not
/// depend on burn's parameter identifiers (see `docs/src/decisions/own-adamw.md`).
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    step: usize,
    moments: Vec<Option<Moments>>,
    refused: Option<Tensor<1>>,
}

/// `[optimizer]` of a distillation: constants of AdamW, the same for generator and fake score. The defaults are PyTorch's,
/// and DMD's (appendix: weight decay 0.01, clip 10).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay of the parameters.
    pub weight_decay: f64,
    /// Gradients are scaled down to at most this global L2 norm.
    pub max_norm: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, max_norm: 10.0 }
    }
}

/// First and second moment of one parameter, flattened.
#[derive(Debug, Clone)]
struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
}

struct Update<'a> {
    optimizer: &'a mut AdamW,
    gradients: std::vec::IntoIter<Option<Tensor<1>>>,
    learning_rate: f64,
    clip: Tensor<1>,
    index: usize,
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let index = self.index;
        self.index += 1;
        if self.optimizer.moments.len() <= index {
            self.optimizer.moments.push(None);
        }
        let Some(gradient) = self.gradients.next().flatten() else {
            return param;
        };
        let numbers = self.optimizer.numbers(self.learning_rate);
        let slot = &mut self.optimizer.moments[index];
        let (first, second) = match slot.take() {
            Some(Moments { first, second }) => (first, second),
            None => (gradient.zeros_like(), gradient.zeros_like()),
        };
        let clip = self.clip.clone();
        changed(param, |plain| {
            let shape = plain.dims();
            let count = shape.iter().product::<usize>();
            let (updated, [first, second]) =
                adamw(plain.reshape([count]), gradient, [first, second], clip, &numbers);
            *slot = Some(Moments { first, second });
            updated.reshape(shape)
        })
    }
}

/// Replaces each trained parameter by one value, so that the old ones can be freed during an update.
pub(crate) struct Hollow;

impl ModuleMapper for Hollow {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !param.is_require_grad() {
            return param;
        }
        param.map(|tensor| Tensor::zeros([1; D], &tensor.without_autodiff().device()))
    }
}

impl AdamW {
    /// An optimiser that has not stepped yet.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, step: 0, moments: Vec::new(), refused: None }
    }

    /// One update of every parameter that has a gradient; also returns the global norm before clipping, `[1]`.
    ///
    /// Nothing is read on the host. When the norm is not finite, parameters and moments stay as they are, and
    /// [`Self::refused`] counts it.
    pub fn step<M: Module>(&mut self, learning_rate: f64, module: M, gradients: Gradients) -> (M, Tensor<1>) {
        let norm = gradients.norm();
        self.step += 1;
        let bad = norm.clone().is_finite().bool_not();
        let refused = bad.clone().float();
        self.refused = Some(match self.refused.take() {
            Some(before) => before + refused,
            None => refused,
        });
        // PyTorch's clip_grad_norm_ adds 1e-6 to the norm.
        let clip = ((norm.clone() + 1e-6).recip() * self.config.max_norm).clamp_max(1.0);
        let clip = clip.mask_fill(bad, f32::NAN);
        let gradients = gradients.into_tensors().into_iter();
        let mut update = Update { optimizer: self, gradients, learning_rate, clip, index: 0 };
        (module.map(&mut update), norm)
    }

    /// How many updates had a gradient that was not finite and changed nothing, `[1]`; `None` before the first
    /// update.
    pub fn refused(&self) -> Option<Tensor<1>> {
        self.refused.clone()
    }

    fn numbers(&self, learning_rate: f64) -> AdamWStep {
        let AdamWConfig { beta1, beta2, epsilon, weight_decay, .. } = self.config;
        let step = self.step as i32;
        AdamWStep {
            beta1,
            beta2,
            correction2: 1.0 - beta2.powi(step),
            epsilon,
            rate: learning_rate / (1.0 - beta1.powi(step)),
            decay: 1.0 - learning_rate * weight_decay,
        }
    }

    /// [`Self::step`] without the norm, which goes among the figures under a name, with what was refused.
    ///
    /// Each old parameter is let go when its new one is there: the module is never in memory twice.
    pub(crate) fn update<M: Module>(
        &mut self,
        learning_rate: f64,
        module: &mut M,
        gradients: Gradients,
        (name, figures): (&'static str, &mut Figures),
    ) {
        let hollow = module.clone().map(&mut Hollow);
        let (updated, norm) = self.step(learning_rate, std::mem::replace(module, hollow), gradients);
        *module = updated;
        figures.loss(name, norm);
        self.refused().into_iter().for_each(|count| figures.refused(name, count));
    }

    /// Writes the moments and the step count. One moment at a time is on the host.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), WeightsError> {
        let moments =
            self.moments.iter().enumerate().filter_map(|(index, pair)| Some((index, pair.as_ref()?)));
        let named = moments.flat_map(|(index, Moments { first, second })| {
            [(format!("{index}.first"), first.clone()), (format!("{index}.second"), second.clone())]
        });
        let tensors = Tensors::from_device(path, named)?;
        write_with_metadata(path, &tensors, Precision::Single, &[("step", &self.step.to_string())])
    }

    /// Reads what [`Self::save`] wrote, onto a device. One moment at a time is on the host.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or was not written by [`Self::save`].
    pub fn load(config: AdamWConfig, path: &Path, device: &Device) -> Result<Self, WeightsError> {
        let broken = |reason: String| WeightsError::Safetensors { path: path.to_owned(), reason };
        let step = read_metadata(path, "step")?.and_then(|step| step.parse().ok());
        let step = step.ok_or_else(|| broken("no step count".to_owned()))?;
        let file = dmd_weights::read(path)?;
        let mut optimizer = Self { step, ..Self::new(config) };
        let read = |index: usize, half: &str| -> Result<Tensor<1>, WeightsError> {
            let name = format!("{index}.{half}");
            if !file.entries().contains_key(&name) {
                return Err(broken(format!("half of moment {index}")));
            }
            let values = file.floats(&name)?;
            let count = values.len();
            Ok(Tensor::from_data(TensorData::new(values, [count]), device))
        };
        for name in file.entries().keys() {
            let parts =
                name.split_once('.').and_then(|(index, half)| Some((index.parse::<usize>().ok()?, half)));
            let Some((index @ 0..1_000_000, "first" | "second")) = parts else {
                return Err(broken(format!("unexpected tensor {name:?}")));
            };
            if optimizer.moments.len() <= index {
                optimizer.moments.resize(index + 1, None);
            }
            if optimizer.moments[index].is_none() {
                let (first, second) = (read(index, "first")?, read(index, "second")?);
                optimizer.moments[index] = Some(Moments { first, second });
            }
        }
        Ok(optimizer)
    }
}
