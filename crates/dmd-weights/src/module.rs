use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::file::{NamedTensor, Precision, TensorFile, write_atomic};
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

struct Loader<'a> {
    path: PathStack,
    keys: &'a KeyMap,
    found: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    mismatch: Mismatch,
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (path, transposed) = self.path.parameter();
        let name = self.keys.key(&path);
        let Some((found, values)) = self.found.remove(&name) else {
            self.mismatch.missing.push(name);
            return param;
        };
        let mut expected: Vec<usize> = param.lazy_shape().to_vec();
        if transposed {
            expected.swap(0, 1);
        }
        // A 1×1 convolution and a linear layer hold the same numbers; older VAE files have the one
        // where newer have the other.
        let trimmed: Vec<usize> = match found.as_slice() {
            [out, input, 1, 1] if expected.len() == 2 => vec![*out, *input],
            _ => found.clone(),
        };
        if trimmed != expected {
            self.mismatch.misshapen.push(Misshapen { name, expected, found });
            return param;
        }
        let device = param.lazy_device();
        let mut tensor = Tensor::<D>::from_data(TensorData::new(values, expected), &device);
        if transposed {
            // Through the host for a contiguous copy: a transposed view would be copied on every use.
            tensor = Tensor::<D>::from_data(tensor.swap_dims(0, 1).into_data(), &device);
        }
        let id = param.id;
        param.transform_for_load(tensor, id)
    }
}

/// Fills a module's parameters from a file, whose keys may also lack [`KeyMap::prefix`].
///
/// # Errors
///
/// [`Error::Mismatch`] unless the file has exactly the module's tensors in the module's shapes;
/// the report names them all.
pub fn load<M: Module>(module: M, file: &TensorFile, keys: &KeyMap) -> Result<M, Error> {
    let found: BTreeMap<_, _> =
        file.floats()?.into_iter().map(|(name, shape, values)| (name, (shape, values))).collect();
    // Some exporters leave the prefix out (transformers 5 does for CLIP's text model).
    let bare = !found.keys().any(|name| name.starts_with(keys.prefix));
    let keys = KeyMap { prefix: if bare { "" } else { keys.prefix }, renames: keys.renames };
    let mut loader = Loader { path: PathStack::default(), keys: &keys, found, mismatch: Mismatch::default() };
    let module = module.map(&mut loader);
    let mut mismatch = loader.mismatch;
    mismatch.unused = loader.found.into_keys().collect();
    if mismatch.is_empty() {
        return Ok(module);
    }
    Err(Error::Mismatch { path: file.path().to_owned(), mismatch })
}

/// Writes a module's parameters as safetensors under checkpoint keys, whole or not at all.
///
/// # Errors
///
/// [`Error::Write`] when the file cannot be written.
pub fn save<M: Module>(module: &M, path: &Path, keys: &KeyMap, precision: Precision) -> Result<(), Error> {
    let dtype = match precision {
        Precision::Single => Dtype::F32,
        Precision::Half => Dtype::F16,
    };
    let encoded: Vec<(String, Vec<usize>, Vec<u8>)> = tensors(module, keys)
        .into_iter()
        .map(|(name, shape, values)| {
            let bytes = match precision {
                Precision::Single => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                Precision::Half => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            };
            (name, shape, bytes)
        })
        .collect();
    let invalid = |error: safetensors::SafeTensorError| Error::Safetensors {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let mut views = Vec::with_capacity(encoded.len());
    for (name, shape, bytes) in &encoded {
        let view = TensorView::new(dtype, shape.clone(), bytes).map_err(invalid)?;
        views.push((name.as_str(), view));
    }
    // diffusers refuses a file that does not say which framework's layout it follows.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(invalid)?;
    write_atomic(path, &bytes)
}
