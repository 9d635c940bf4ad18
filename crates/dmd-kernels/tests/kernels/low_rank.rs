//! Low-rank updates: what a layer adds is what the sum of the weights gives, values and gradients.

use burn::module::{Module, Param, Reparameterizer};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, FloatDType, Tensor, Tolerance};
use dmd_kernels::{LowRank, convolution, doubled, doubled_convolution, linear, linear_rows};

use crate::numbers;

/// Gives every weight of two or four axes an update of rank 3.
struct Attach;

impl Reparameterizer for Attach {
    type Reparam = LowRank;

    fn reparameterize<const D: usize>(
        &mut self,
        _: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<LowRank>) {
        let base = param.set_require_grad(false);
        let shape = base.lazy_shape();
        let (outputs, inputs) = match D {
            2 => (shape[1], shape[0]),
            4 => (shape[0], shape[1..].iter().product()),
            _ => return (base, None),
        };
        let device = base.lazy_device();
        let matrix = |seed, shape: [usize; 2]| {
            Param::from_data((numbers::<2>(seed, shape) * 0.2).into_data(), &device)
        };
        let update = LowRank { down: matrix(5, [3, inputs]), up: matrix(6, [outputs, 3]), scale: 0.7 };
        (base, Some(update))
    }
}

fn updated<M: Module>(layer: M) -> M {
    layer.apply_reparameterization(Attach)
}

/// The gradients of `down`, `up` and `x`, where `x` is tracked.
fn gradients<const D: usize, const E: usize>(
    update: &LowRank,
    x: Tensor<D>,
    body: impl FnOnce(Tensor<D>) -> Tensor<E>,
) -> [Vec<f32>; 4] {
    let x = x.autodiff().require_grad();
    let y = body(x.clone());
    let values = y.clone().without_autodiff().into_data().iter::<f32>().collect();
    let grads = (y.clone() * y).sum().backward();
    let of = |tensor: Tensor<2>| tensor.grad(&grads).unwrap().into_data().iter::<f32>().collect();
    let of_x = x.grad(&grads).unwrap().into_data().iter::<f32>().collect();
    [values, of(update.down.val()), of(update.up.val()), of_x]
}

fn assert_equal(what: &str, found: [Vec<f32>; 4], expected: [Vec<f32>; 4]) {
    for (part, (found, expected)) in ["values", "down", "up", "x"].iter().zip(found.into_iter().zip(expected))
    {
        let largest = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let worst = found.iter().zip(&expected).fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs()));
        // Sums of some hundred products in another order.
        assert!(worst <= 1e-5 * largest, "{what}, {part}: {worst} of {largest}");
    }
}

#[test]
fn linear_layers_add_their_update() {
    let device = Device::flex();
    device.seed(1);
    let layer: Linear = updated(LinearConfig::new(10, 7).init(&device.clone().autodiff()));
    let x = numbers::<3>(2, [2, 5, 10]);
    let update = || layer.weight.reparameterization::<LowRank>().unwrap();
    let found = gradients(update(), x.clone(), |x| linear(&layer, x));
    // burn's own layer reads the sum.
    let expected = gradients(update(), x.clone(), |x| layer.forward(x));
    assert_equal("linear", found, expected);
    let rows = || x.clone().reshape([10, 10]);
    let found = gradients(update(), rows(), |x| linear_rows(&layer, x));
    let expected = gradients(update(), rows(), |x| layer.forward(x));
    assert_equal("linear_rows", found, expected);
}

#[test]
fn convolutions_add_their_update() {
    let device = Device::flex();
    device.seed(2);
    let training = device.clone().autodiff();
    let all = PaddingConfig2d::Explicit(1, 1, 1, 1);
    let config = |kernel, padding| Conv2dConfig::new([6, 5], [kernel, kernel]).with_padding(padding);
    let layers: [(&str, Conv2d); 4] = [
        ("3×3", config(3, all.clone()).init(&training)),
        ("3×3 of stride 2", config(3, all).with_stride([2, 2]).init(&training)),
        ("zeros below and to the right", config(3, PaddingConfig2d::Explicit(0, 0, 1, 1)).init(&training)),
        ("1×1", config(1, PaddingConfig2d::Valid).init(&training)),
    ];
    let x = numbers::<4>(3, [2, 6, 8, 8]);
    for (what, layer) in layers {
        let layer = updated(layer);
        let update = || layer.weight.reparameterization::<LowRank>().unwrap();
        let found = gradients(update(), x.clone(), |x| convolution(&layer, x));
        let expected = gradients(update(), x.clone(), |x| layer.forward(x));
        assert_equal(what, found, expected);
        let plain = layer.valid();
        let found = doubled_convolution(&plain, x.clone());
        let tolerance = Tolerance::<f32>::absolute(2e-4);
        found.into_data().assert_approx_eq(&plain.forward(doubled(x.clone())).into_data(), tolerance);
    }
}

/// An update in single precision on a frozen weight in half precision: the result has the input's type, and gradients
/// arrive in single precision.
#[test]
fn an_update_of_a_half_precision_weight() {
    let device = Device::flex();
    device.seed(3);
    let layer = LinearConfig::new(8, 4).init(&device.clone().autodiff());
    let weight = layer.weight.val().detach().cast(FloatDType::BF16).set_require_grad(false);
    let layer = updated(Linear { weight: Param::initialized(layer.weight.id, weight), ..layer });
    let x = numbers::<3>(4, [1, 3, 8]).autodiff();
    let y = linear(&layer, x.clone());
    let grads = y.clone().sum().backward();
    let update = layer.weight.reparameterization::<LowRank>().unwrap();
    let gradient = update.up.val().grad(&grads).unwrap();
    assert_eq!(y.dtype(), x.dtype());
    assert_eq!(gradient.dtype(), x.dtype());
    assert!(gradient.abs().max().into_scalar::<f32>() > 0.0);
}
