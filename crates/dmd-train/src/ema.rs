use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};

/// Exponential moving average of a module's trained parameters, on the plain side of autodiff. A decay of 0 is no average:
/// then nothing is kept, and the module itself takes its place.
#[derive(Debug, Clone)]
pub(crate) struct Ema {
    /// By parameter in visiting order, flattened; nothing for those that are not trained.
    values: Vec<Option<Tensor<1>>>,
    decay: f64,
    /// Where the values are kept.
    place: Device,
}

/// A tensor on a device; the same tensor when it is there.
fn on(place: &Device, tensor: Tensor<1>) -> Tensor<1> {
    if tensor.device() == *place { tensor } else { Tensor::from_data(tensor.into_data(), place) }
}

/// The trained parameters, flattened, in visiting order.
#[derive(Default)]
struct Online {
    values: Vec<Option<Tensor<1>>>,
}

impl ModuleVisitor for Online {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.is_require_grad().then(|| {
            let value = param.val().without_autodiff();
            let count: usize = value.dims().iter().product();
            value.reshape([count])
        });
        self.values.push(value);
    }
}

pub(crate) fn trained<M: Module>(module: &M) -> Vec<Option<Tensor<1>>> {
    let mut online = Online::default();
    module.visit(&mut online);
    online.values
}

struct Put<'a> {
    values: std::slice::Iter<'a, Option<Tensor<1>>>,
}

impl ModuleMapper for Put<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(value) = self.values.next().expect("the average has the module's parameters") else {
            return param; // frozen
        };
        param.map(|online| on(&online.device(), value.clone()).reshape(online.dims()))
    }
}

impl Ema {
    /// An average that starts at the module `online`, which is on the training side, and is kept on the device `place`.
    pub(crate) fn new<M: Module>(online: &M, decay: f64, place: &Device) -> Self {
        let mut average = Self { values: Vec::new(), decay, place: place.clone() };
        average.restart(online);
        average
    }

    /// Whether there is an average beside the module.
    pub(crate) fn kept(&self) -> bool {
        self.decay > 0.0
    }

    /// Starts anew at a module on the training side.
    pub(crate) fn restart<M: Module>(&mut self, online: &M) {
        if self.kept() {
            let values = trained(online).into_iter();
            self.values = values.map(|value| value.map(|value| on(&self.place, value))).collect();
        }
    }

    /// `average ← decay · average + (1 − decay) · online`. For the first updates the decay is
    /// `(1 + step) / (10 + step)` where that is smaller, so that the start is forgotten.
    pub(crate) fn update<M: Module>(&mut self, online: &M, step: usize) {
        if !self.kept() {
            return;
        }
        let decay = self.decay.min((1.0 + step as f64) / (10.0 + step as f64));
        for (average, online) in self.values.iter_mut().zip(trained(online)) {
            if let Some(online) = online {
                let value = average.take().expect("the average has the module's parameters");
                *average = Some(value * decay + on(&self.place, online) * (1.0 - decay));
            }
        }
    }

    /// The averaged module, on the plain side. `online` is the module that is averaged.
    pub(crate) fn of<M: Module>(&self, online: &M) -> M {
        let plain = online.valid();
        if !self.kept() {
            return plain;
        }
        plain.map(&mut Put { values: self.values.iter() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Module, Debug)]
    struct Point {
        p: Param<Tensor<1>>,
    }

    impl Point {
        fn new(values: [f32; 3]) -> Self {
            Self { p: Param::from_tensor(Tensor::from_floats(values, &Device::flex().autodiff())) }
        }

        fn values(&self) -> Vec<f32> {
            self.p.val().without_autodiff().into_data().iter::<f32>().collect()
        }
    }

    #[test]
    fn average_follows_the_parameters() {
        let mut average = Ema::new(&Point::new([0.0; 3]), 0.75, &Device::flex());
        let online = Point::new([4.0, 8.0, -4.0]);
        // Step 0 uses decay 1/10, step 100 the full 0.75.
        average.update(&online, 0);
        let values = average.of(&online).values();
        assert!((values[0] - 3.6).abs() < 1e-6, "{values:?}");
        average.update(&online, 100);
        let values = average.of(&online).values();
        assert!((values[0] - (0.75 * 3.6 + 0.25 * 4.0)).abs() < 1e-6, "{values:?}");
    }

    #[test]
    fn without_a_decay_it_is_the_module() {
        let mut average = Ema::new(&Point::new([0.0; 3]), 0.0, &Device::flex());
        let online = Point::new([4.0, 8.0, -4.0]);
        average.update(&online, 0);
        assert!(average.values.is_empty());
        assert_eq!(average.of(&online).values(), [4.0, 8.0, -4.0]);
    }
}
