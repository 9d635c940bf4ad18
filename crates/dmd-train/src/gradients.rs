use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

/// The gradients of a module's parameters, each flattened, in the order in which the module is visited. A parameter
/// that a loss does not reach has none.
#[derive(Debug, Clone)]
pub struct Gradients {
    tensors: Vec<Option<Tensor<1>>>,
    zero: Tensor<1>,
}

struct Flatten {
    gradients: GradientsParams,
    tensors: Vec<Option<Tensor<1>>>,
}

impl ModuleVisitor for Flatten {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = self.gradients.remove::<D>(param.id);
        self.tensors.push(gradient.map(|gradient| {
            let count: usize = gradient.dims().iter().product();
            gradient.reshape([count])
        }));
    }
}

impl Gradients {
    /// Differentiates a loss `[1]`, and takes the gradients of one module's parameters.
    pub fn of<M: Module>(loss: Tensor<1>, module: &M) -> Self {
        let zero = loss.clone().without_autodiff().zeros_like();
        let gradients = GradientsParams::from_module(&mut loss.backward(), module);
        let mut flatten = Flatten { gradients, tensors: Vec::new() };
        module.visit(&mut flatten);
        Self { tensors: flatten.tensors, zero }
    }

    /// Adds the gradients of another loss of the same module.
    ///
    /// # Panics
    ///
    /// If the other module has another number of parameters.
    pub(crate) fn add(&mut self, other: Self) {
        assert_eq!(self.tensors.len(), other.tensors.len(), "gradients of one module");
        for (sum, other) in self.tensors.iter_mut().zip(other.tensors) {
            *sum = match (sum.take(), other) {
                (Some(sum), Some(other)) => Some(sum + other),
                (sum, other) => sum.or(other),
            };
        }
    }

    /// The L2 norm over all gradients, `[1]`; 0 without any. It stays on the device.
    pub(crate) fn norm(&self) -> Tensor<1> {
        let squares: Vec<Tensor<1>> = self.iter().map(|gradient| gradient.clone().square().sum()).collect();
        if squares.is_empty() {
            return self.zero.clone();
        }
        Tensor::cat(squares, 0).sum().sqrt()
    }

    /// Every gradient there is, flattened, in visiting order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Tensor<1>> {
        self.tensors.iter().flatten()
    }

    /// Every gradient there is, to be replaced.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Tensor<1>> {
        self.tensors.iter_mut().flatten()
    }

    /// The gradients by parameter, in visiting order.
    pub(crate) fn into_tensors(self) -> Vec<Option<Tensor<1>>> {
        self.tensors
    }
}
