//! Fills a module's parameters from a file.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use rayon::prelude::*;

use crate::parameters::PathStack;
use crate::plan::{Wanted, plan};
use crate::{Error, KeyMap, Mismatch, Tensors};

/// How many bytes are read and converted ahead, in parallel. The number is large enough to keep a few cores busy, and
/// small compared with a model.
const AHEAD: usize = 1 << 28;

/// How a linear weight, which files store transposed, is laid out in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinearWeights {
    Viewed,
    Rewritten,
}

/// The second pass of loading: every parameter takes the values of its name. The values are read a few tensors ahead.
struct Loader<'a> {
    linear: LinearWeights,
    /// The parameters' float type.
    dtype: DType,
    file: &'a Tensors,
    path: PathStack,
    wanted: VecDeque<Wanted>,
    /// The paths of the parameters that are filled; `None` for all.
    only: Option<BTreeSet<String>>,
    /// Values that have been read, by the parameter's path.
    ready: BTreeMap<String, TensorData>,
    error: Option<Error>,
}

impl Loader<'_> {
    /// The values of a parameter in the layout of the file.
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
        // PyTorch's `[out, in]` becomes burn's `[in, out]`. This is a view, which matrix products accept without a
        // copy.
        if transposed {
            tensor = tensor.swap_dims(0, 1);
            if self.linear == LinearWeights::Rewritten {
                // The way through the host makes a copy in the new order.
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

/// Fills a module's parameters from a file, by name. The file's names may also lack [`KeyMap::prefix`], be spelled as
/// in [`KeyMap::aliases`], or all begin with one more prefix, as in state dicts that were saved from inside a wrapper
/// (`module.`, `_orig_mod.`). All names and shapes are compared before a value is read. Single-precision values are
/// used in place, without a copy; others are converted a few tensors at a time.
///
/// # Errors
///
/// [`Error::Mismatch`] unless the file has exactly the module's tensors in the module's shapes; the report counts all
/// differences. [`Error::DataType`] as [`Tensors::floats`]. [`Error::Unfilled`] if the module visits other parameters
/// when they are filled than when they were counted.
pub fn load<M: Module>(module: M, file: &Tensors, keys: &KeyMap) -> Result<M, Error> {
    load_as(LinearWeights::Viewed, DType::F32, module, file, keys, None)
}

/// As [`load`], but every parameter has burn's own memory layout, as after a training step. A matrix product with
/// another layout may round differently, and a resumed run must be the same run.
///
/// # Errors
///
/// As [`load`].
pub fn load_for_training<M: Module>(module: M, file: &Tensors, keys: &KeyMap) -> Result<M, Error> {
    load_as(LinearWeights::Rewritten, DType::F32, module, file, keys, None)
}

/// As [`load_for_training`], but fills only the parameters with the keys `names`, which are all that the file has. The
/// other parameters stay unchanged. [`crate::save_some`] is the inverse.
///
/// # Errors
///
/// As [`load`]; also [`Error::Mismatch`] if the file's tensors are not exactly `names`.
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

/// As [`load`], for a frozen module whose parameters get the float type `dtype`. Values that have this type in the file
/// are used in place. The others are converted through single precision, a few tensors at a time.
///
/// # Errors
///
/// As [`load`].
pub fn load_in<M: Module>(module: M, file: &Tensors, keys: &KeyMap, dtype: FloatDType) -> Result<M, Error> {
    load_as(LinearWeights::Viewed, dtype.into(), module, file, keys, None)
}

/// As [`load_in`], but fills only the parameters of some tensors, which are given by their names in the file. The other
/// parameters stay unchanged.
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
