use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;

use crate::ema::trained;
use crate::parameter::changed;
use crate::training::PLAIN_KEYS;

/// Implicit distribution alignment (SenseFlow, arXiv 2506.00523): every trained parameter of the fake score becomes
/// `(1 − share) · own + share · generator's`. Parameters are paired by name; those that the generator does not have, as the
/// critic's head, stay.
pub fn align<F: Module, G: Module>(fake: F, generator: &G, share: f64) -> F {
    let names = dmd_weights::trained(generator, &PLAIN_KEYS);
    let values = names.into_iter().zip(trained(generator).into_iter().flatten()).collect();
    let own = dmd_weights::trained(&fake, &PLAIN_KEYS).into_iter();
    fake.map(&mut Towards { values, own, share })
}

struct Towards {
    /// The generator's values, flattened, by name.
    values: HashMap<String, Tensor<1>>,
    /// Names of the fake score's trained parameters, in visiting order.
    own: std::vec::IntoIter<String>,
    share: f64,
}

impl ModuleMapper for Towards {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !param.is_require_grad() {
            return param;
        }
        let name = self.own.next().expect("a name for every trained parameter");
        let Some(value) = self.values.get(&name) else { return param };
        changed(param, |own| {
            let value = value.clone().reshape(own.dims());
            own * (1.0 - self.share) + value * self.share
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[derive(Module, Debug)]
    struct Inner {
        weight: Param<Tensor<2>>,
    }

    #[derive(Module, Debug)]
    struct Generator {
        first: Inner,
        second: Inner,
    }

    /// The same parameters in another order, one of them frozen, and a head beside them.
    #[derive(Module, Debug)]
    struct Fake {
        head: Inner,
        second: Inner,
        first: Inner,
    }

    #[test]
    fn parameters_of_one_name_move_together() {
        let device = Device::flex().autodiff();
        let inner = |value: f32, tracked: bool| {
            let values = Tensor::<2>::from_floats([[value, 2.0 * value]], &device);
            Inner { weight: Param::from_tensor(values).set_require_grad(tracked) }
        };
        let generator = Generator { first: inner(10.0, true), second: inner(20.0, true) };
        let fake = Fake { head: inner(1.0, true), second: inner(2.0, false), first: inner(4.0, true) };
        let moved = align(fake, &generator, 0.25);
        let values = |inner: &Inner| -> Vec<f32> {
            inner.weight.val().without_autodiff().into_data().iter::<f32>().collect()
        };
        assert_eq!(values(&moved.head), [1.0, 2.0], "a head of its own stays");
        assert_eq!(values(&moved.second), [2.0, 4.0], "what is frozen stays");
        // 0.75 · 4 + 0.25 · 10
        assert_eq!(values(&moved.first), [5.5, 11.0]);
        assert!(moved.first.weight.is_require_grad() && moved.first.weight.val().is_autodiff());
    }
}
