//! A lazy view of named tensors: the content of a file, under the names that a network expects.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{AllocationProperty, Bytes, DType, FloatDType, Tensor, TensorData};
use safetensors::Dtype;

use crate::entry::{Entry, Source};
use crate::{Error, convert};

/// Size in bytes of the smallest tensor that is used in place. For smaller tensors a copy is cheaper than sharing.
pub(crate) const SHARED: usize = 1 << 16;

/// Named tensors of a file, of the shards of a model, of a state dict or of a network. A value is read, and changes are
/// applied to it, only when a parameter takes it or a file is written. A view of 4 GB therefore costs no memory by
/// itself.
///
/// ```
/// use dmd_weights::Tensors;
/// let tensor = |name: &str| (name.to_owned(), vec![2], vec![1.0, 2.0]);
/// let file = Tensors::from_values("w.safetensors", [tensor("unet.a.w"), tensor("vae.b")])?;
/// let unet = file.only("unet.").renamed(|name| Some(name.replace(".w", ".weight")))?;
/// assert_eq!(unet.floats("a.weight")?, [1.0, 2.0]);
/// # Ok::<(), dmd_weights::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Tensors {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
    bytes: u64,
    metadata: Arc<BTreeMap<String, String>>,
}

/// A tensor's name, shape and values in f32.
pub type NamedTensor = (String, Vec<usize>, Vec<f32>);

impl Tensors {
    pub(crate) fn new(path: PathBuf, entries: BTreeMap<String, Entry>, bytes: u64) -> Self {
        Self { path, entries, bytes, metadata: Arc::default() }
    }

    pub(crate) fn with_metadata(self, metadata: BTreeMap<String, String>) -> Self {
        Self { metadata: Arc::new(metadata), ..self }
    }

    /// Makes a view of tensors in memory. `name` stands for the file in messages.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] when two tensors have the same name, or when the number of values does not fit a shape.
    pub fn from_values(
        name: impl Into<PathBuf>,
        tensors: impl IntoIterator<Item = NamedTensor>,
    ) -> Result<Self, Error> {
        let path = name.into();
        let mut entries = Vec::new();
        for (name, shape, values) in tensors {
            let count = values.len();
            let values = Arc::new(move || Ok(values.clone()));
            let entry = Entry::new(Dtype::F32, shape.clone(), Source::Computed(values));
            let entry = entry.filter(|entry| entry.len() == count).ok_or_else(|| Error::Index {
                path: path.clone(),
                reason: format!("{name:?} has {count} values, which are not of shape {shape:?}"),
            })?;
            entries.push((name, entry));
        }
        Self::from_entries(path, entries, 0)
    }

    /// Makes a view of tensors on a device. A tensor's values are copied to the host when they are read, and not kept
    /// there.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] when two tensors have the same name.
    pub fn from_device<const D: usize>(
        name: impl Into<PathBuf>,
        tensors: impl IntoIterator<Item = (String, Tensor<D>)>,
    ) -> Result<Self, Error> {
        let entries =
            tensors.into_iter().filter_map(|(name, tensor)| Some((name, Entry::on_device(tensor)?)));
        Self::from_entries(name.into(), entries, 0)
    }

    pub(crate) fn from_entries(
        path: PathBuf,
        named: impl IntoIterator<Item = (String, Entry)>,
        bytes: u64,
    ) -> Result<Self, Error> {
        let mut entries = BTreeMap::new();
        for (name, entry) in named {
            if entries.contains_key(&name) {
                return Err(Error::Index { path, reason: format!("it has two tensors {name:?}") });
            }
            entries.insert(name, entry);
        }
        Ok(Self::new(path, entries, bytes))
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors by name.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// The `__metadata__` of a safetensors file: texts by name. It is empty for other files, and for a sharded model.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The half-precision type, if all floats of the file have the same one; `None` for any other file.
    pub fn half(&self) -> Option<FloatDType> {
        let whole = [Dtype::I64, Dtype::I32];
        let mut types = self.entries.values().map(|entry| entry.dtype).filter(|dtype| !whole.contains(dtype));
        let first = types.next()?;
        match first {
            _ if types.any(|dtype| dtype != first) => None,
            Dtype::F16 => Some(FloatDType::F16),
            Dtype::BF16 => Some(FloatDType::BF16),
            _ => None,
        }
    }

    /// Size on the disk of all opened files, in bytes, whatever part of them this view shows.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps the tensors whose names satisfy `wanted`, e.g. a feature extractor without its classifier.
    pub fn select(mut self, wanted: impl Fn(&str) -> bool) -> Self {
        self.entries.retain(|name, _| wanted(name));
        self
    }

    /// Keeps the tensors whose names begin with `prefix`, and removes the prefix: one component of a file that holds
    /// several.
    pub fn only(self, prefix: &str) -> Self {
        let stripped = |(name, entry): (String, Entry)| Some((name.strip_prefix(prefix)?.to_owned(), entry));
        Self { entries: self.entries.into_iter().filter_map(stripped).collect(), ..self }
    }

    /// Renames the tensors. A tensor for which `name` returns `None` is left out.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] when two tensors would have the same name.
    pub fn renamed(self, name: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let renamed = self.entries.into_iter().filter_map(|(old, entry)| Some((name(&old)?, entry)));
        let metadata = self.metadata;
        Ok(Self { metadata, ..Self::from_entries(self.path, renamed, self.bytes)? })
    }

    pub(crate) fn entries_mut(&mut self) -> &mut BTreeMap<String, Entry> {
        &mut self.entries
    }

    /// The values of a float tensor, in f32.
    ///
    /// # Errors
    ///
    /// [`Error::DataType`] for a tensor that does not hold floats, [`Error::Index`] for a tensor that does not exist,
    /// [`Error::Overflow`] for a computed tensor with a value that its type cannot hold.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, Error> {
        let values = self.unrounded(name)?;
        let Entry { dtype, source, .. } = self.entry(name)?;
        match (source, dtype) {
            (Source::Computed(_), Dtype::F16 | Dtype::BF16) => {
                let stored = self.stored(name, *dtype, &values)?;
                Ok(convert::to_floats(*dtype, &stored).unwrap_or(values))
            }
            _ => Ok(values),
        }
    }

    /// As [`Self::floats`], but without rounding computed values to their tensor's type.
    pub(crate) fn unrounded(&self, name: &str) -> Result<Vec<f32>, Error> {
        let entry = self.entry(name)?;
        if let Source::Computed(values) = &entry.source {
            return values();
        }
        let values = convert::to_floats(entry.dtype, &self.raw(name)?).ok_or_else(|| Error::DataType {
            path: self.path.clone(),
            name: name.to_owned(),
            dtype: format!("{:?}", entry.dtype),
        })?;
        entry.release();
        Ok(values)
    }

    /// Gives the memory of a mapped file's values back to the system. The values are read again when they are next
    /// used, which takes time. This is meant for weights that are used rarely, such as those of a text encoder.
    pub fn release(&self) {
        self.entries.values().for_each(Entry::release);
    }

    /// The bytes of values as a file stores them in the type `dtype`.
    fn stored(&self, name: &str, dtype: Dtype, values: &[f32]) -> Result<Vec<u8>, Error> {
        convert::from_floats(dtype, values).map_err(|value| Error::Overflow {
            path: self.path.clone(),
            name: name.to_owned(),
            value,
            dtype: format!("{dtype:?}"),
        })
    }

    /// A float tensor's data in a float type. If the tensor has this type in the file, the data are the file's own
    /// bytes without a copy.
    pub(crate) fn data(&self, name: &str, shape: Vec<usize>, dtype: DType) -> Result<TensorData, Error> {
        let entry = self.entry(name)?;
        let stored = match entry.dtype {
            Dtype::F32 => Some(DType::F32),
            Dtype::F16 => Some(DType::F16),
            Dtype::BF16 => Some(DType::BF16),
            _ => None,
        };
        if let (true, Source::Mapped(region)) = (stored == Some(dtype), &entry.source)
            && cfg!(target_endian = "little")
            && region.len() >= SHARED
        {
            let bytes = region.read();
            if (bytes.as_ptr() as usize).is_multiple_of(dtype.size()) {
                let bytes = Bytes::from_shared(bytes, AllocationProperty::File);
                return Ok(TensorData::from_bytes(bytes, shape, dtype));
            }
        }
        Ok(TensorData::new(self.floats(name)?, shape).convert_dtype(dtype))
    }

    /// The values of an integer tensor.
    ///
    /// # Errors
    ///
    /// As [`Self::floats`], for a tensor that is neither I64 nor I32.
    pub fn integers(&self, name: &str) -> Result<Vec<i64>, Error> {
        let dtype = self.entry(name)?.dtype;
        let wrong = || Error::DataType {
            path: self.path.clone(),
            name: name.to_owned(),
            dtype: format!("{dtype:?}, where whole numbers are expected"),
        };
        match dtype {
            Dtype::I64 | Dtype::I32 => convert::to_integers(dtype, &self.raw(name)?).ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }

    fn entry(&self, name: &str) -> Result<&Entry, Error> {
        self.entries.get(name).ok_or_else(|| Error::Index {
            path: self.path.clone(),
            reason: format!("it holds no tensor {name:?}"),
        })
    }

    /// A tensor's bytes as the file stores them.
    pub(crate) fn raw(&self, name: &str) -> Result<bytes::Bytes, Error> {
        let entry = self.entry(name)?;
        match &entry.source {
            Source::Mapped(region) => Ok(region.read()),
            #[cfg(feature = "pytorch")]
            Source::PyTorch(tensor) => {
                let invalid = |reason: String| Error::PyTorch { path: self.path.clone(), reason };
                let bytes = tensor.read().map_err(|error| invalid(error.to_string()))?;
                match bytes.len() == entry.byte_len() {
                    true => Ok(bytes.into()),
                    false => Err(invalid(format!("{name:?} is not as long as its shape says"))),
                }
            }
            Source::Computed(values) => Ok(self.stored(name, entry.dtype, &values()?)?.into()),
        }
    }
}
