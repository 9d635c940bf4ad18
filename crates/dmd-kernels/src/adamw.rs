use burn::tensor::Tensor;

/// The numbers of one AdamW step, worked out from its constants and the step count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Factor of the gradient: clipping.
    pub clip: f64,
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
/// # Shapes
///
/// All `[n]`.
pub fn adamw(
    parameter: Tensor<1>,
    gradient: Tensor<1>,
    moments: [Tensor<1>; 2],
    step: &AdamWStep,
) -> (Tensor<1>, [Tensor<1>; 2]) {
    fast!(adamw(&parameter, &gradient, [&moments[0], &moments[1]], step));
    adamw_composed(parameter, gradient, moments, step)
}

/// [`adamw`]'s default body, in plain tensor operations.
pub fn adamw_composed(
    parameter: Tensor<1>,
    gradient: Tensor<1>,
    [first, second]: [Tensor<1>; 2],
    step: &AdamWStep,
) -> (Tensor<1>, [Tensor<1>; 2]) {
    let gradient = gradient * step.clip;
    let first = first * step.beta1 + gradient.clone() * (1.0 - step.beta1);
    let second = second * step.beta2 + gradient.square() * (1.0 - step.beta2);
    let direction = first.clone() / ((second.clone() / step.correction2).sqrt() + step.epsilon);
    (parameter * step.decay - direction * step.rate, [first, second])
}
