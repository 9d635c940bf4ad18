use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};

use crate::{Collective, Error, agree};

/// Values that ranks exchange at once: 32 MiB.
pub(crate) const BUCKET: usize = 1 << 23;

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

/// Replaces gradients by their sums over all ranks, in one message where they are no longer than a bucket.
fn sum_bucket(bucket: &mut [&mut Tensor<1>], ranks: &dyn Collective) -> Result<(), Error> {
    let joined = Tensor::cat(bucket.iter().map(|gradient| (**gradient).clone()).collect(), 0);
    let mut values: Vec<f32> = joined.into_data().iter::<f32>().collect();
    values.chunks_mut(BUCKET).try_for_each(|chunk| ranks.sum(chunk))?;
    let mut start = 0;
    for gradient in bucket {
        let [length] = gradient.dims();
        let data = TensorData::new(values[start..start + length].to_vec(), [length]);
        **gradient = Tensor::from_data(data, (&gradient.device(), gradient.dtype()));
        start += length;
    }
    Ok(())
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

    /// The sum with the gradients of another loss of the same module.
    ///
    /// # Panics
    ///
    /// If the other module has another number of parameters.
    pub(crate) fn plus(mut self, other: Self) -> Self {
        assert_eq!(self.tensors.len(), other.tensors.len(), "gradients of one module");
        for (sum, other) in self.tensors.iter_mut().zip(other.tensors) {
            *sum = match (sum.take(), other) {
                (Some(sum), Some(other)) => Some(sum + other),
                (sum, other) => sum.or(other),
            };
        }
        self
    }

    /// The sum over all ranks. It goes through the host, a few parameters at a time.
    pub(crate) fn summed(mut self, ranks: &dyn Collective) -> Result<Self, Error> {
        if ranks.size() == 1 {
            return Ok(self);
        }
        let lengths = self.tensors.iter().map(|gradient| gradient.as_ref().map(|values| values.dims()[0]));
        let form: Vec<u8> = format!("{:?}", lengths.collect::<Vec<_>>()).into_bytes();
        agree(ranks, &form, "has gradients of other parameters than rank 0")?;
        let mut all: Vec<&mut Tensor<1>> = self.iter_mut().collect();
        let mut rest = &mut all[..];
        while !rest.is_empty() {
            let mut length = 0;
            let fits = rest.iter().take_while(|gradient| {
                length += gradient.dims()[0];
                length <= BUCKET
            });
            let count = fits.count().max(1);
            let (bucket, later) = rest.split_at_mut(count);
            sum_bucket(bucket, ranks)?;
            rest = later;
        }
        Ok(self)
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
