//! [`adamw`] for the flex backend: one pass over parameter, gradient and moments.

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchDevice, Flex, backend_extension};
use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

use super::instructions::vectorised;
use super::tensors::{tensor, values};
use crate::AdamWStep;

/// Values that one thread takes at a time.
const CHUNK: usize = 1 << 14;

/// The optimiser's update as an operation of a backend.
#[backend_extension(Flex)]
pub trait AdamWOps: Backend {
    /// Parameter, first and second moment after a step.
    fn adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        clip: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// [`crate::adamw`], where all tensors are in single precision on flex, without autodiff.
pub(crate) fn adamw(
    parameter: &Tensor<1>,
    gradient: &Tensor<1>,
    [first, second]: [&Tensor<1>; 2],
    clip: &Tensor<1>,
    step: &AdamWStep,
) -> Option<(Tensor<1>, [Tensor<1>; 2])> {
    let plain = |x: &Tensor<1>| {
        x.dtype() == DType::F32 && matches!(x.device().as_dispatch(), DispatchDevice::Flex(_))
    };
    let all = [parameter, gradient, first, second, clip];
    all.into_iter().all(plain).then(|| {
        let [parameter, gradient, first, second, clip] = all.map(|x| x.clone().into_dispatch());
        let (parameter, first, second) = Dispatch::adamw(parameter, gradient, first, second, clip, *step);
        let tensor = Tensor::from_dispatch;
        (tensor(parameter), [tensor(first), tensor(second)])
    })
}

fn update([p, m, v]: [&mut [f32]; 3], g: &[f32], clip: f32, step: &AdamWStep) {
    let single = |value: f64| value as f32;
    let (beta1, beta2) = (single(step.beta1), single(step.beta2));
    let (rest1, rest2) = (single(1.0 - step.beta1), single(1.0 - step.beta2));
    let (correction, epsilon) = (single(step.correction2), single(step.epsilon));
    let (rate, decay) = (single(step.rate), single(step.decay));
    vectorised(
        #[inline(always)]
        || {
            for (((p, m), v), g) in p.iter_mut().zip(m.iter_mut()).zip(v.iter_mut()).zip(g) {
                let g = g * clip;
                *m = *m * beta1 + g * rest1;
                *v = *v * beta2 + g * g * rest2;
                *p = *p * decay - *m / ((*v / correction).sqrt() + epsilon) * rate;
            }
        },
    );
}

impl AdamWOps for Flex {
    fn adamw(
        parameter: FlexTensor,
        gradient: FlexTensor,
        first: FlexTensor,
        second: FlexTensor,
        clip: FlexTensor,
        step: AdamWStep,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let clip = values(&clip)[0];
        if !clip.is_finite() {
            return (parameter, first, second);
        }
        let copy = |tensor: FlexTensor| values(&tensor.to_contiguous()).to_vec();
        let (mut p, mut m, mut v) = (copy(parameter), copy(first), copy(second));
        let gradient = gradient.to_contiguous();
        p.par_chunks_mut(CHUNK)
            .zip(m.par_chunks_mut(CHUNK))
            .zip(v.par_chunks_mut(CHUNK))
            .zip(values(&gradient).par_chunks(CHUNK))
            .for_each(|(((p, m), v), g)| update([p, m, v], g, clip, &step));
        let flat = |values: Vec<f32>| {
            let count = values.len();
            tensor(values, [count])
        };
        (flat(p), flat(m), flat(v))
    }
}
