//! Filling a module's parameters.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use rayon::prelude::*;

use crate::parameters::PathStack;
use crate::plan::{Wanted, plan};
use crate::{Error, KeyMap, Mismatch, Tensors};

/// Bytes that are read and converted ahead, in parallel: enough to keep a few cores busy, little beside a model.
const AHEAD: usize = 1 << 28;

/// What becomes of a linear weight, which files keep transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinearWeights {
    Viewed,
    Rewritten,
}

/// The second pass: every parameter takes the values of its name, which are read a few tensors ahead.
struct Loader<'a> {
    linear: LinearWeights,
    /// The parameters' float type.
    dtype: DType,
    file: &'a Tensors,
    path: PathStack,
    wanted: VecDeque<Wanted>,
    /// The paths that are filled, where not all are.
    only: Option<BTreeSet<String>>,
    /// Values by the parameter's path.
    ready: BTreeMap<String, TensorData>,
    error: Option<Error>,
}

impl Loader<'_> {
    /// The values of a parameter as the file has them.
    fn take(&mut self, path: &str) -> Result<TensorData, Error> {
        loop {
            if let Some(data) = self.ready.remove(path) {
                return Ok(data);
            }
            if self.wanted.is_empty() {
                return Err(self.unfilled(path));
            }
            let (mut bytes, mut batch) = (0, Vec::new());
            while bytes < AHEAD
                && let Some(wanted) = self.wanted.pop_front()
            {
                bytes += wanted.shape.iter().product::<usize>() * size_of::<f32>();
                batch.push(wanted);
            }
            let file = self.file;
            let dtype = self.dtype;
            let read = |wanted: Wanted| Ok((wanted.path, file.data(&wanted.stored, wanted.shape, dtype)?));
            self.ready.extend(batch.into_par_iter().map(read).collect::<Result<Vec<_>, Error>>()?);
        }
    }

    fn unfilled(&self, parameter: &str) -> Error {
        Error::Unfilled { path: self.file.path().to_owned(), parameter: parameter.to_owned() }
    }

    fn filled<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Result<Tensor<D>, Error> {
        let (path, transposed) = self.path.parameter();
        let data = self.take(&path)?;
        if data.shape().len() != D {
            return Err(self.unfilled(&path));
        }
        let mut tensor = Tensor::<D>::from_data(data, (&param.lazy_device(), self.dtype));
        // PyTorch's `[out, in]` as burn's `[in, out]`: a view, which matrix products take as it is.
        if transposed {
            tensor = tensor.swap_dims(0, 1);
            if self.linear == LinearWeights::Rewritten {
                // Through the host, for a copy in the new order.
                tensor = Tensor::from_data(tensor.into_data(), (&param.lazy_device(), self.dtype));
            }
        }
        Ok(tensor)
    }
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let left = |only: &BTreeSet<String>| !only.contains(&self.path.parameter().0);
        if self.error.is_some() || self.only.as_ref().is_some_and(left) {
            return param;
        }
        match self.filled(&param) {
            Ok(tensor) => {
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

/// Fills a module's parameters from a file, by name. The file's names may also lack [`KeyMap::prefix`], be written as one
/// of [`KeyMap::aliases`], or all begin with one more prefix, as state dicts saved from inside a wrapper do (`module.`,
/// `_orig_mod.`). Names and shapes are all compared before a value is looked at; single-precision values are used where
/// they lie in the file, others are converted a few tensors at a time.
///
/// # Errors
///
/// [`Error::Mismatch`] unless the file has exactly the module's tensors in the module's shapes: the
/// report counts them all. [`Error::DataType`] as [`Tensors::floats`]. [`Error::Unfilled`] if the module shows other
/// parameters when they are to be filled than when they were counted.
pub fn load<M: Module>(module: M, file: &Tensors, keys: &KeyMap) -> Result<M, Error> {
    load_as(LinearWeights::Viewed, DType::F32, module, file, keys, None)
}

/// [`load`] with every parameter in burn's own order in memory, as training leaves it: a product of
/// matrices in another order may round otherwise, and a resumed run is to be the same run.
///
/// # Errors
///
/// As [`load`].
pub fn load_for_training<M: Module>(module: M, file: &Tensors, keys: &KeyMap) -> Result<M, Error> {
    load_as(LinearWeights::Rewritten, DType::F32, module, file, keys, None)
}

/// [`load_for_training`] of the parameters under some keys alone, which are all that the file has; the others stay as they
/// are. [`crate::save_some`] is its inverse.
///
/// # Errors
///
/// As [`load`]; [`Error::Mismatch`] too where the file has other tensors than `names`.
pub fn load_some_for_training<M: Module>(
    module: M,
    file: &Tensors,
    keys: &KeyMap,
    names: &[String],
) -> Result<M, Error> {
    let (found, names) = (file.entries(), names.iter().cloned().collect::<BTreeSet<_>>());
    let mismatch = Mismatch {
        missing: names.iter().filter(|name| !found.contains_key(*name)).cloned().collect(),
        unused: found.keys().filter(|name| !names.contains(*name)).cloned().collect(),
        ..Mismatch::default()
    };
    match mismatch.is_empty() {
        true => load_as(LinearWeights::Rewritten, DType::F32, module, file, keys, Some(&names)),
        false => Err(Error::Mismatch { path: file.path().to_owned(), mismatch }),
    }
}

/// [`load`] of a frozen module with its parameters in a float type. Values that the file has in that type are used where they
/// lie in it; no copy in single precision is made of the others beyond a few at a time.
///
/// # Errors
///
/// As [`load`].
pub fn load_in<M: Module>(module: M, file: &Tensors, keys: &KeyMap, dtype: FloatDType) -> Result<M, Error> {
    load_as(LinearWeights::Viewed, dtype.into(), module, file, keys, None)
}

/// [`load_in`] of some tensors alone, by their names in the file; the other parameters stay as they are.
///
/// # Errors
///
/// As [`load`].
pub fn reload<M: Module>(
    module: M,
    file: &Tensors,
    keys: &KeyMap,
    dtype: FloatDType,
    names: &BTreeSet<String>,
) -> Result<M, Error> {
    load_as(LinearWeights::Viewed, dtype.into(), module, file, keys, Some(names))
}

fn load_as<M: Module>(
    linear: LinearWeights,
    dtype: DType,
    module: M,
    file: &Tensors,
    keys: &KeyMap,
    names: Option<&BTreeSet<String>>,
) -> Result<M, Error> {
    let wanted = plan(&module, file, keys, names)?;
    let only = names.map(|_| wanted.iter().map(|wanted| wanted.path.clone()).collect());
    let (path, ready) = (PathStack::default(), BTreeMap::new());
    let mut loader = Loader { linear, dtype, file, path, wanted, only, ready, error: None };
    let module = module.map(&mut loader);
    let left = loader.ready.keys().next().or(loader.wanted.front().map(|wanted| &wanted.path));
    let unfilled = left.map(|path| loader.unfilled(path));
    loader.error.or(unfilled).map_or(Ok(module), Err)
}
