use burn::tensor::Tensor;

/// The numbers of one AdamW step, worked out from its constants and the step count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// `1 − beta2^step`.
    pub correction2: f64,
    /// Added to the root of the corrected second moment.
    pub epsilon: f64,
    /// `learning_rate / (1 − beta1^step)`.
    pub rate: f64,
    /// `1 − learning_rate · weight_decay`.
    pub decay: f64,
}

/// One parameter's AdamW update (Loshchilov and Hutter 2019, in PyTorch's order): the parameter and both moments
/// after it. Not differentiable; all on the plain side.
///
/// `clip` is the factor of the gradient. It is a tensor, so that clipping by a norm does not wait for the device.
/// Where it is not finite, nothing changes.
///
/// # Shapes
///
/// `clip`: `[1]`; all others `[n]`.
pub fn adamw(
    parameter: Tensor<1>,
    gradient: Tensor<1>,
    moments: [Tensor<1>; 2],
    clip: Tensor<1>,
    step: &AdamWStep,
) -> (Tensor<1>, [Tensor<1>; 2]) {
    fast!(adamw(&parameter, &gradient, [&moments[0], &moments[1]], &clip, step));
    adamw_composed(parameter, gradient, moments, clip, step)
}

/// [`adamw`]'s default body, in plain tensor operations.
pub fn adamw_composed(
    parameter: Tensor<1>,
    gradient: Tensor<1>,
    [first, second]: [Tensor<1>; 2],
    clip: Tensor<1>,
    step: &AdamWStep,
) -> (Tensor<1>, [Tensor<1>; 2]) {
    let unusable = clip.clone().is_finite().bool_not().expand(parameter.shape());
    let kept = |new: Tensor<1>, old: Tensor<1>| new.mask_where(unusable.clone(), old);
    let gradient = gradient * clip;
    let first_after = first.clone() * step.beta1 + gradient.clone() * (1.0 - step.beta1);
    let second_after = second.clone() * step.beta2 + gradient.square() * (1.0 - step.beta2);
    let direction = first_after.clone() / ((second_after.clone() / step.correction2).sqrt() + step.epsilon);
    let after = parameter.clone() * step.decay - direction * step.rate;
    (kept(after, parameter), [kept(first_after, first), kept(second_after, second)])
}
