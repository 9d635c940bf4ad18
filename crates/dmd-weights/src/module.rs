use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{FloatDType, Tensor, TensorData};
use rayon::prelude::*;

use crate::file::{Entry, NamedTensor, Precision, TensorFile, write};
use crate::{Error, KeyMap, Mismatch, Misshapen};

/// The path of the parameter being visited, with the type of the module that owns it.
#[derive(Default)]
struct PathStack {
    segments: Vec<String>,
    owners: Vec<String>,
}

impl PathStack {
    fn enter(&mut self, name: &str, container: &str) {
        self.segments.push(name.to_owned());
        self.owners.push(container.to_owned());
    }

    fn exit(&mut self) {
        self.segments.pop();
        self.owners.pop();
    }

    /// Path with burn's norm parameters under PyTorch's names, and whether a file stores the
    /// parameter transposed (burn keeps a linear weight as `[in, out]`, PyTorch as `[out, in]`).
    fn parameter(&self) -> (String, bool) {
        // burn enters a parameter under its field's name, with the struct that holds it as container.
        let owner = self.owners.last().map_or("", String::as_str);
        let mut segments = self.segments.clone();
        let field = segments.last().cloned().unwrap_or_default();
        if owner.ends_with("Norm")
            && let Some(last) = segments.last_mut()
        {
            match field.as_str() {
                "gamma" => "weight".clone_into(last),
                "beta" => "bias".clone_into(last),
                _ => {}
            }
        }
        let transposed = owner == "Struct:Linear" && field == "weight";
        (segments.join("."), transposed)
    }
}

struct Collector<'a> {
    path: PathStack,
    keys: &'a KeyMap,
    tensors: Vec<NamedTensor>,
}

impl ModuleVisitor for Collector<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (path, transposed) = self.path.parameter();
        let mut tensor = param.val().without_autodiff();
        if transposed {
            tensor = tensor.swap_dims(0, 1);
        }
        let shape = tensor.dims().to_vec();
        let values = tensor.into_data().convert::<f32>().iter::<f32>().collect();
        self.tensors.push((self.keys.key(&path), shape, values));
    }
}

/// Every float parameter of a module under its checkpoint key: name, shape and values in f32.
pub fn tensors<M: Module>(module: &M, keys: &KeyMap) -> Vec<NamedTensor> {
    let mut collector = Collector { path: PathStack::default(), keys, tensors: Vec::new() };
    module.visit(&mut collector);
    collector.tensors
}

/// A parameter of the module and the file's tensor that fills it.
struct Wanted {
    name: String,
    /// As the file's values are read: without the 1×1 of a convolution that is a linear layer here.
    shape: Vec<usize>,
    transposed: bool,
}

/// The first pass: compares names and shapes, reads nothing.
struct Checker<'a> {
    path: PathStack,
    keys: &'a KeyMap,
    found: BTreeMap<String, (&'a str, &'a Entry)>,
    wanted: Vec<Wanted>,
    mismatch: Mismatch,
}

impl ModuleVisitor for Checker<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (path, transposed) = self.path.parameter();
        let name = self.keys.key(&path);
        let Some((stored, entry)) = self.found.remove(&name) else {
            self.mismatch.missing.push(name);
            return;
        };
        let mut expected: Vec<usize> = param.lazy_shape().to_vec();
        if transposed {
            expected.swap(0, 1);
        }
        // A 1×1 convolution and a linear layer hold the same numbers; older VAE files have the one
        // where newer have the other.
        let trimmed: Vec<usize> = match entry.shape.as_slice() {
            [out, input, 1, 1] if expected.len() == 2 => vec![*out, *input],
            _ => entry.shape.clone(),
        };
        if trimmed != expected {
            let found = entry.shape.clone();
            self.mismatch.misshapen.push(Misshapen { name, expected, found });
            return;
        }
        self.wanted.push(Wanted { name: stored.to_owned(), shape: trimmed, transposed });
    }
}

/// The second pass: parameters in the same order, their values converted a few tensors ahead.
struct Loader<'a> {
    linear: LinearWeights,
    file: &'a TensorFile,
    wanted: std::vec::IntoIter<Wanted>,
    ready: VecDeque<(TensorData, bool)>,
    error: Option<Error>,
}

/// Bytes that are converted ahead, in parallel: enough to keep a few cores busy, little beside a model.
const AHEAD: usize = 1 << 28;

impl Loader<'_> {
    /// The next parameter's data as the file has it, and whether that is transposed.
    fn next(&mut self) -> Result<Option<(TensorData, bool)>, Error> {
        if self.ready.is_empty() {
            let mut bytes = 0;
            let mut batch = Vec::new();
            while bytes < AHEAD
                && let Some(wanted) = self.wanted.next()
            {
                bytes += wanted.shape.iter().product::<usize>() * size_of::<f32>();
                batch.push(wanted);
            }
            let file = self.file;
            let read = |wanted: Wanted| Ok((file.data(&wanted.name, wanted.shape)?, wanted.transposed));
            self.ready = batch.into_par_iter().map(read).collect::<Result<_, Error>>()?;
        }
        Ok(self.ready.pop_front())
    }
}

impl ModuleMapper for Loader<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        let (data, transposed) = match self.next() {
            Ok(Some(next)) => next,
            Ok(None) => return param,
            Err(error) => {
                self.error = Some(error);
                return param;
            }
        };
        let mut tensor = Tensor::<D>::from_data(data, &param.lazy_device());
        // PyTorch's `[out, in]` as burn's `[in, out]`: a view, which matrix products take as it is.
        if transposed {
            tensor = tensor.swap_dims(0, 1);
            if self.linear == LinearWeights::Rewritten {
                // Through the host, for a copy in the new order.
                tensor = Tensor::from_data(tensor.into_data(), &param.lazy_device());
            }
        }
        let id = param.id;
        param.transform_for_load(tensor, id)
    }
}

/// Compares a module's parameters with a file's tensors by name and shape; reads no value.
///
/// # Errors
///
/// [`Error::Mismatch`] as [`load`].
pub fn check<M: Module>(module: &M, file: &TensorFile, keys: &KeyMap) -> Result<(), Error> {
    plan(module, file, keys).map(|_| ())
}

/// The tensors that fill a module's parameters, in the parameters' order.
fn plan<M: Module>(module: &M, file: &TensorFile, keys: &KeyMap) -> Result<Vec<Wanted>, Error> {
    // Some exporters leave the prefix out (transformers 5 does for CLIP's text model).
    let bare = !file.entries().keys().any(|name| name.starts_with(keys.prefix));
    let keys = KeyMap { prefix: if bare { "" } else { keys.prefix }, ..*keys };
    let found = file
        .entries()
        .iter()
        // A table 0, 1, 2, .. that older CLIP files carry.
        .filter(|(name, _)| !name.ends_with("position_ids"))
        .map(|(name, entry)| (keys.canonical(name), (name.as_str(), entry)))
        .collect();
    let path = PathStack::default();
    let mut checker = Checker { path, keys: &keys, found, wanted: Vec::new(), mismatch: Mismatch::default() };
    module.visit(&mut checker);
    let Checker { found, wanted, mut mismatch, .. } = checker;
    mismatch.unused = found.into_values().map(|(name, _)| name.to_owned()).collect();
    if mismatch.is_empty() {
        Ok(wanted)
    } else {
        Err(Error::Mismatch { path: file.path().to_owned(), mismatch })
    }
}

/// Fills a module's parameters from a file, whose keys may also lack [`KeyMap::prefix`] or be
/// written as one of [`KeyMap::aliases`]. Names and shapes are all compared before a value is looked
/// at; single-precision values are used where they lie in the file, others are converted a few tensors
/// at a time.
///
/// # Errors
///
/// [`Error::Mismatch`] unless the file has exactly the module's tensors in the module's shapes: the
/// report names them all. [`Error::DataType`] as [`TensorFile::floats`].
pub fn load<M: Module>(module: M, file: &TensorFile, keys: &KeyMap) -> Result<M, Error> {
    load_as(LinearWeights::Viewed, module, file, keys)
}

/// [`load`] with every parameter in burn's own order in memory, as training leaves it: a product of
/// matrices in another order may round otherwise, and a resumed run is to be the same run.
///
/// # Errors
///
/// As [`load`].
pub fn load_for_training<M: Module>(module: M, file: &TensorFile, keys: &KeyMap) -> Result<M, Error> {
    load_as(LinearWeights::Rewritten, module, file, keys)
}

/// What becomes of a linear weight, which files keep transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinearWeights {
    Viewed,
    Rewritten,
}

fn load_as<M: Module>(
    linear: LinearWeights,
    module: M,
    file: &TensorFile,
    keys: &KeyMap,
) -> Result<M, Error> {
    let wanted = plan(&module, file, keys)?.into_iter();
    let mut loader = Loader { linear, file, wanted, ready: VecDeque::new(), error: None };
    let module = module.map(&mut loader);
    loader.error.map_or(Ok(module), Err)
}

/// Writes a module's parameters as safetensors under checkpoint keys, whole or not at all.
///
/// # Errors
///
/// [`Error::Write`] when the file cannot be written.
pub fn save<M: Module>(module: &M, path: &Path, keys: &KeyMap, precision: Precision) -> Result<(), Error> {
    write(path, tensors(module, keys), precision)
}

struct Cast(FloatDType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.cast(self.0))
    }
}

/// A frozen module with its parameters in another float type: half of the memory in half precision.
pub fn cast<M: Module>(module: M, dtype: FloatDType) -> M {
    module.map(&mut Cast(dtype))
}
