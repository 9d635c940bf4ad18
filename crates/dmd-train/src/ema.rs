use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

/// Exponential moving average of a module's parameters, on the plain side of autodiff.
#[derive(Debug, Clone)]
pub(crate) struct Ema<M> {
    model: M,
    decay: f64,
}

/// The online parameters, flattened, in visiting order; nothing for those that are not trained.
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

struct Blend {
    online: std::vec::IntoIter<Option<Tensor<1>>>,
    decay: f64,
}

impl ModuleMapper for Blend {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(online) = self.online.next().expect("the average has the online module's parameters") else {
            return param; // frozen
        };
        let decay = self.decay;
        param.map(|average| {
            let shape = average.dims();
            average * decay + online.reshape(shape) * (1.0 - decay)
        })
    }
}

impl<M: Module> Ema<M> {
    /// An average that starts at `online`.
    pub(crate) fn new(online: &M, decay: f64) -> Self {
        Self { model: online.valid(), decay }
    }

    /// The average of a module that was saved, continued with `decay`.
    pub(crate) fn from_model(model: M, decay: f64) -> Self {
        Self { model: model.valid(), decay }
    }

    /// `average ← decay · average + (1 − decay) · online`. For the first updates the decay is
    /// `(1 + step) / (10 + step)` where that is smaller, so that the start is forgotten.
    pub(crate) fn update(self, online: &M, step: usize) -> Self {
        let mut values = Online::default();
        online.visit(&mut values);
        let early = (1.0 + step as f64) / (10.0 + step as f64);
        let mut blend = Blend { online: values.values.into_iter(), decay: self.decay.min(early) };
        Self { model: self.model.map(&mut blend), decay: self.decay }
    }

    /// The averaged module.
    pub(crate) fn model(&self) -> &M {
        &self.model
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

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
        let mut average = Ema::new(&Point::new([0.0; 3]), 0.75);
        let online = Point::new([4.0, 8.0, -4.0]);
        // Step 0 uses decay 1/10, step 100 the full 0.75.
        average = average.update(&online, 0);
        let values = average.model().values();
        assert!((values[0] - 3.6).abs() < 1e-6, "{values:?}");
        average = average.update(&online, 100);
        let values = average.model().values();
        assert!((values[0] - (0.75 * 3.6 + 0.25 * 4.0)).abs() < 1e-6, "{values:?}");
    }
}
