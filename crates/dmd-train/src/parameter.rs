use burn::module::Param;
use burn::tensor::Tensor;

/// A parameter with another value of its shape, which `change` makes of the present one on the plain side. It stays tracked,
/// or not, on its device.
pub(crate) fn changed<const D: usize>(
    param: Param<Tensor<D>>,
    change: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Param<Tensor<D>> {
    let (id, tensor, mapper) = param.consume();
    let (tracked, autodiff, device) = (tensor.is_require_grad(), tensor.is_autodiff(), tensor.device());
    let value = change(tensor.without_autodiff());
    // With the device goes its strategy of keeping or recomputing activations.
    let value = if autodiff { value.autodiff().to_device(&device) } else { value };
    let value = if tracked { value.require_grad() } else { value };
    Param::from_mapped_value(id, value, mapper)
}
