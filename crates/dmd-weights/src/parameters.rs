//! Lists and writes a module's parameters under their checkpoint keys.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, FloatDType, Int, Tensor};
use safetensors::Dtype;

use crate::entry::Entry;
use crate::tensors::NamedTensor;
use crate::write::{Precision, write};
use crate::{Error, KeyMap, Tensors};

/// The path of the parameter that is being visited, with the types of the modules that contain it.
#[derive(Default)]
pub(crate) struct PathStack {
    segments: Vec<String>,
    owners: Vec<String>,
}

impl PathStack {
    pub(crate) fn enter(&mut self, name: &str, container: &str) {
        self.segments.push(name.to_owned());
        self.owners.push(container.to_owned());
    }

    pub(crate) fn exit(&mut self) {
        self.segments.pop();
        self.owners.pop();
    }

    /// The path, with PyTorch's names for the parameters of norms, and whether a file stores the parameter transposed
    /// (burn keeps a linear weight as `[in, out]`, PyTorch as `[out, in]`).
    pub(crate) fn parameter(&self) -> (String, bool) {
        // burn enters a parameter under its field's name, and passes the struct that holds it as the container.
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

/// A parameter, with its shape in the layout of files.
pub(crate) struct Parameter {
    pub(crate) path: String,
    pub(crate) shape: Vec<usize>,
    /// Whether the parameter holds floats. Only float parameters are filled from a file.
    pub(crate) float: bool,
}

/// Every parameter of a module, in the order in which they are visited. Values are neither read nor initialised.
pub(crate) fn parameters<M: Module>(module: &M) -> Vec<Parameter> {
    let mut list = Parameters::default();
    module.visit(&mut list);
    list.found
}

/// Names and shapes of a module's parameters, as in files. Values are neither read nor initialised.
pub fn shapes<M: Module>(module: &M, keys: &KeyMap) -> Vec<(String, Vec<usize>)> {
    let found = parameters(module).into_iter();
    found.map(|parameter| (keys.key(&parameter.path), parameter.shape)).collect()
}

/// How many values a module's parameters have. Values are neither read nor initialised.
pub fn count<M: Module>(module: &M) -> usize {
    parameters(module).iter().map(|parameter| parameter.shape.iter().product::<usize>()).sum()
}

#[derive(Default)]
struct Parameters {
    path: PathStack,
    found: Vec<Parameter>,
}

impl Parameters {
    fn add(&mut self, mut shape: Vec<usize>, float: bool) {
        let (path, transposed) = self.path.parameter();
        if transposed {
            shape.swap(0, 1);
        }
        self.found.push(Parameter { path, shape, float });
    }
}

impl ModuleVisitor for Parameters {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.add(param.lazy_shape().to_vec(), true);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.add(param.lazy_shape().to_vec(), false);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.add(param.lazy_shape().to_vec(), false);
    }
}

/// Copies a parameter's values from its device.
pub(crate) type Values = Arc<dyn Fn() -> Vec<f32> + Send + Sync>;

struct Collector<'a> {
    path: PathStack,
    keys: &'a KeyMap,
    found: Vec<(String, Vec<usize>, Values)>,
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
        // The tensor is a handle. Its values are copied from the device when the closure is called.
        let values = move || tensor.clone().into_data().convert::<f32>().iter::<f32>().collect();
        self.found.push((self.keys.key(&path), shape, Arc::new(values)));
    }
}

/// Every float parameter: its checkpoint key, its shape in the layout of files, and a function that copies its values.
pub(crate) fn collect<M: Module>(module: &M, keys: &KeyMap) -> Vec<(String, Vec<usize>, Values)> {
    let mut collector = Collector { path: PathStack::default(), keys, found: Vec::new() };
    module.visit(&mut collector);
    collector.found
}

/// The checkpoint keys of a module's trained parameters, which are those that require a gradient, in the order in which
/// they are visited.
pub fn trained<M: Module>(module: &M, keys: &KeyMap) -> Vec<String> {
    struct Trained<'a> {
        path: PathStack,
        keys: &'a KeyMap,
        found: Vec<String>,
    }

    impl ModuleVisitor for Trained<'_> {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.path.enter(name, container_type);
        }

        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.exit();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                self.found.push(self.keys.key(&self.path.parameter().0));
            }
        }
    }

    let mut trained = Trained { path: PathStack::default(), keys, found: Vec::new() };
    module.visit(&mut trained);
    trained.found
}

/// Every float parameter of a module under its checkpoint key, in the module's order: name, shape and values in f32.
pub fn tensors<M: Module>(module: &M, keys: &KeyMap) -> Vec<NamedTensor> {
    let found = collect(module, keys).into_iter();
    found.map(|(name, shape, values)| (name, shape, values())).collect()
}

/// Writes a module's parameters as a safetensors file under checkpoint keys, completely or not at all. Besides the
/// module, only one parameter at a time is in memory.
///
/// # Errors
///
/// As [`write()`]; [`Error::Index`] when `keys` gives two parameters the same name.
pub fn save<M: Module>(module: &M, path: &Path, keys: &KeyMap, precision: Precision) -> Result<(), Error> {
    write(path, &view(module, path, keys, |_| true)?, precision)
}

/// As [`save`], but writes only the parameters with the keys `names`.
///
/// # Errors
///
/// As [`save`].
pub fn save_some<M: Module>(
    module: &M,
    path: &Path,
    keys: &KeyMap,
    precision: Precision,
    names: &[String],
) -> Result<(), Error> {
    let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    write(path, &view(module, path, keys, |name| names.contains(name))?, precision)
}

/// A view of a module's parameters, which are copied from the device when they are read.
fn view<M: Module>(
    module: &M,
    path: &Path,
    keys: &KeyMap,
    keep: impl Fn(&str) -> bool,
) -> Result<Tensors, Error> {
    let found = collect(module, keys).into_iter().filter(|(name, ..)| keep(name));
    let entries = found.filter_map(|(name, shape, values)| {
        Some((name, Entry::computed(Dtype::F32, shape, move || Ok(values()))?))
    });
    Tensors::from_entries(path.to_owned(), entries, 0)
}

struct Cast(FloatDType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.cast(self.0))
    }
}

struct CastFrozen(FloatDType);

impl ModuleMapper for CastFrozen {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if param.is_require_grad() { param } else { param.map(|tensor| tensor.cast(self.0)) }
    }
}

/// Converts the parameters that are not trained to another float type.
pub fn cast_frozen<M: Module>(module: M, dtype: FloatDType) -> M {
    module.map(&mut CastFrozen(dtype))
}

/// Converts the parameters of a frozen module to another float type. Half precision needs half of the memory.
pub fn cast<M: Module>(module: M, dtype: FloatDType) -> M {
    module.map(&mut Cast(dtype))
}
