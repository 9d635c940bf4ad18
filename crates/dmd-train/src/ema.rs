use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

/// Exponential moving average of a module's parameters, on the plain side of autodiff.
#[derive(Debug, Clone)]
pub struct Ema<M> {
    model: M,
    decay: f64,
}

/// The online parameters, flattened, in visiting order.
#[derive(Default)]
struct Online {
    values: Vec<Tensor<1>>,
}

impl ModuleVisitor for Online {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val().without_autodiff();
        let count: usize = value.dims().iter().product();
        self.values.push(value.reshape([count]));
    }
}

struct Blend {
    online: std::vec::IntoIter<Tensor<1>>,
    decay: f64,
}

impl ModuleMapper for Blend {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let online = self.online.next().expect("the average has the online module's parameters");
        let decay = self.decay;
        param.map(|average| {
            let shape = average.dims();
            average * decay + online.reshape(shape) * (1.0 - decay)
        })
    }
}

impl<M: Module> Ema<M> {
    /// An average that starts at `online`.
    pub fn new(online: &M, decay: f64) -> Self {
        Self { model: online.valid(), decay }
    }

    /// The average of a module that was saved, continued with `decay`.
    pub fn from_model(model: M, decay: f64) -> Self {
        Self { model: model.valid(), decay }
    }

    /// `average ← decay · average + (1 − decay) · online`. For the first updates the decay is
    /// `(1 + step) / (10 + step)` where that is smaller, so that the start is forgotten.
    pub fn update(self, online: &M, step: usize) -> Self {
        let mut values = Online::default();
        online.visit(&mut values);
        let early = (1.0 + step as f64) / (10.0 + step as f64);
        let mut blend = Blend { online: values.values.into_iter(), decay: self.decay.min(early) };
        Self { model: self.model.map(&mut blend), decay: self.decay }
    }

    /// The averaged module.
    pub fn model(&self) -> &M {
        &self.model
    }
}
