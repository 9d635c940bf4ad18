use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;

use crate::Error;
use crate::ema::trained;
use crate::optimizer::Hollow;
use crate::parameter::changed;
use crate::training::PLAIN_KEYS;

/// Implicit distribution alignment (SenseFlow, arXiv 2506.00523), once after each update of the generator: every trained
/// parameter of the fake score becomes `(1 − share) · own + share · generator's`. Parameters are paired by name; those that
/// the generator does not have, as the critic's head, stay.
///
/// # Errors
///
/// [`Error::Training`] when the two have no trained parameter of one name and shape; then nothing has changed.
pub fn align<F: Module, G: Module>(fake: &mut F, generator: &G, share: f64) -> Result<(), Error> {
    let names = dmd_weights::trained(generator, &PLAIN_KEYS);
    let values: HashMap<String, Tensor<1>> =
        names.into_iter().zip(trained(generator).into_iter().flatten()).collect();
    let own = dmd_weights::trained(fake, &PLAIN_KEYS);
    let sizes: Vec<usize> = trained(fake).iter().flatten().map(|value| value.dims()[0]).collect();
    let pairs = own.iter().zip(sizes).filter_map(|(name, size)| Some((values.get(name)?.dims()[0], size)));
    let (mut paired, mut fits) = (0, true);
    for (theirs, own) in pairs {
        paired += 1;
        fits &= theirs == own;
    }
    if paired == 0 || !fits {
        let reason = "alignment needs a fake score whose parameters have the generator's names and shapes";
        return Err(Error::Training(reason.to_owned()));
    }
    // The old parameters are freed one by one.
    let hollow = fake.clone().map(&mut Hollow);
    let module = std::mem::replace(fake, hollow);
    *fake = module.map(&mut Towards { values, own: own.into_iter(), share });
    Ok(())
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

    fn inner(values: &[f32], tracked: bool) -> Inner {
        let values = Tensor::<1>::from_floats(values, &Device::flex().autodiff()).reshape([1, values.len()]);
        Inner { weight: Param::from_tensor(values).set_require_grad(tracked) }
    }

    #[test]
    fn parameters_of_one_name_move_together() {
        let generator = Generator { first: inner(&[10.0, 20.0], true), second: inner(&[20.0, 40.0], true) };
        let mut fake = Fake {
            head: inner(&[1.0], true),
            second: inner(&[2.0, 4.0], false),
            first: inner(&[4.0, 8.0], true),
        };
        align(&mut fake, &generator, 0.25).expect("a shared parameter");
        let values = |inner: &Inner| -> Vec<f32> {
            inner.weight.val().without_autodiff().into_data().iter::<f32>().collect()
        };
        assert_eq!(values(&fake.head), [1.0], "a head of its own stays");
        assert_eq!(values(&fake.second), [2.0, 4.0], "what is frozen stays");
        // 0.75 · 4 + 0.25 · 10
        assert_eq!(values(&fake.first), [5.5, 11.0]);
        assert!(fake.first.weight.is_require_grad() && fake.first.weight.val().is_autodiff());
        align(&mut inner(&[1.0], true), &generator, 0.5).expect_err("no name is shared");
        let mut small = Generator { first: inner(&[1.0], true), second: inner(&[1.0, 2.0], true) };
        align(&mut small, &generator, 0.5).expect_err("other shapes");
        assert_eq!(values(&small.second), [1.0, 2.0], "a refusal changes nothing");
    }
}
