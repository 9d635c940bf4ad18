use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use burn::tensor::{AllocationProperty, Bytes, DType, TensorData};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::tensor::{TensorInfo, TensorView};
use safetensors::{Dtype, SafeTensors};

use crate::{Error, shards, write_atomic};

/// How parameters are stored in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    Single,
    /// 16-bit IEEE floats: half the size, about three decimal digits.
    Half,
}

/// A tensor's name, shape and values in f32.
pub type NamedTensor = (String, Vec<usize>, Vec<f32>);

/// Smallest tensor, in bytes, that is used in place: below it a copy costs less than the sharing.
const SHARED: usize = 1 << 16;

/// A model file, or several shards of one, mapped into memory with its header checked.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
    bytes: u64,
}

/// One tensor of a [`TensorFile`].
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its type in the file.
    pub dtype: Dtype,
    /// Its shape in the file.
    pub shape: Vec<usize>,
    place: Place,
}

/// Where a tensor's bytes are.
#[derive(Debug, Clone)]
enum Place {
    Safetensors(bytes::Bytes),
    #[cfg(feature = "pytorch")]
    PyTorch(Box<pytorch_reader::Tensor>),
}

impl Entry {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in the file.
    pub fn byte_len(&self) -> usize {
        self.len() * self.dtype.bitsize() / 8
    }
}

/// Opens a model file and checks its header: safetensors, the `*.safetensors.index.json` of a
/// sharded model, or (feature `pytorch`) a PyTorch state dict `*.bin`, `*.pt`, `*.pth`, of which only
/// data is read: nothing in it is executed.
///
/// # Errors
///
/// [`Error::Read`] when it cannot be read, [`Error::Safetensors`] when it is truncated or its
/// header does not describe its content, [`Error::Index`] for an index that names no shard beside
/// it, [`Error::PyTorch`] for a state dict that cannot be read or is not supported by this build.
pub fn read(path: &Path) -> Result<TensorFile, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut entries = BTreeMap::new();
    let mut bytes = 0;
    if name.ends_with(".json") {
        for (shard, wanted) in shards::read_index(path)? {
            let found = header(&shard)?;
            bytes += file_len(&shard)?;
            for key in wanted {
                let entry = found.get(&key).cloned().ok_or_else(|| Error::Index {
                    path: path.to_owned(),
                    reason: format!("{key:?} is not in {shard:?}"),
                })?;
                entries.insert(key, entry);
            }
        }
    } else {
        bytes = file_len(path)?;
        entries = match name.rsplit_once('.') {
            Some((_, "bin" | "pt" | "pth" | "ckpt")) => state_dict(path)?,
            _ => header(path)?,
        };
    }
    Ok(TensorFile { path: path.to_owned(), entries, bytes })
}

fn file_len(path: &Path) -> Result<u64, Error> {
    let metadata = fs::metadata(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(metadata.len())
}

/// A file's content, mapped into memory: its pages are the system's own, shared with every other
/// reader, and brought in before the first use.
#[expect(unsafe_code, reason = "a mapped file, see below")]
fn map(path: &Path) -> Result<bytes::Bytes, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() == 0 {
        return Ok(bytes::Bytes::new()); // an empty file cannot be mapped
    }
    // SAFETY: the mapping is read-only and lives as long as the bytes that own it. Its content must not
    // change: this project replaces files by renaming, which leaves an open one as it is; a user who
    // cuts a model file in place while a program runs on it ends that program, as with every reader
    // that maps.
    let mapped = unsafe { memmap2::MmapOptions::new().populate().map(&file) }.map_err(failed)?;
    Ok(bytes::Bytes::from_owner(mapped))
}

/// The tensors that a safetensors header describes, all of them inside the file.
fn header(path: &Path) -> Result<BTreeMap<String, Entry>, Error> {
    let invalid = |reason: String| Error::Safetensors { path: path.to_owned(), reason };
    let content = map(path)?;
    let (length, metadata) =
        SafeTensors::read_metadata(&content).map_err(|error| invalid(error.to_string()))?;
    let start = length + size_of::<u64>();
    let entry = |info: &TensorInfo| {
        let (from, to) = info.data_offsets;
        let place = Place::Safetensors(content.slice(start + from..start + to));
        Entry { dtype: info.dtype, shape: info.shape.clone(), place }
    };
    Ok(metadata.tensors().into_iter().map(|(name, info)| (name, entry(info))).collect())
}

#[cfg(not(feature = "pytorch"))]
fn state_dict(path: &Path) -> Result<BTreeMap<String, Entry>, Error> {
    file_len(path)?;
    Err(Error::PyTorch {
        path: path.to_owned(),
        reason: "this build reads safetensors only; build with the feature `pytorch`".to_owned(),
    })
}

#[cfg(feature = "pytorch")]
fn state_dict(path: &Path) -> Result<BTreeMap<String, Entry>, Error> {
    use pytorch_reader::DType as Stored;
    file_len(path)?;
    let invalid = |reason: String| Error::PyTorch { path: path.to_owned(), reason };
    let reader = pytorch_reader::PytorchReader::new(path).map_err(|error| invalid(error.to_string()))?;
    let mut entries = BTreeMap::new();
    for (name, tensor) in reader.into_tensors() {
        let dtype = match tensor.dtype() {
            Stored::F64 => Dtype::F64,
            Stored::F32 => Dtype::F32,
            Stored::F16 => Dtype::F16,
            Stored::BF16 => Dtype::BF16,
            Stored::I64 => Dtype::I64,
            Stored::I32 => Dtype::I32,
            other => return Err(invalid(format!("{name:?} has type {other:?}; weights are floats"))),
        };
        let shape = tensor.shape().to_vec();
        entries.insert(name, Entry { dtype, shape, place: Place::PyTorch(Box::new(tensor)) });
    }
    Ok(entries)
}

impl TensorFile {
    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file without the tensors whose names do not satisfy `wanted`: a classifier's last layers beside a
    /// feature extractor, say.
    pub fn select(mut self, wanted: impl Fn(&str) -> bool) -> Self {
        self.entries.retain(|name, _| wanted(name));
        self
    }

    /// Its tensors by name.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// Bytes on disk, all shards together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The values of a float tensor, in f32.
    ///
    /// # Errors
    ///
    /// [`Error::DataType`] for a tensor that is neither F16, BF16, F32 nor F64, [`Error::Index`] for
    /// one that is not there.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, Error> {
        let entry = self.entry(name)?;
        let bytes = self.bytes_of(entry)?;
        Ok(match entry.dtype {
            Dtype::F32 => convert(&bytes, |b| f32::from_le_bytes(*b)),
            Dtype::F64 => convert(&bytes, |b| f64::from_le_bytes(*b) as f32),
            Dtype::F16 => halves(&bytes, |from: &[f16], to| from.convert_to_f32_slice(to)),
            Dtype::BF16 => halves(&bytes, |from: &[bf16], to| from.convert_to_f32_slice(to)),
            other => {
                return Err(Error::DataType {
                    path: self.path.clone(),
                    name: name.to_owned(),
                    dtype: format!("{other:?}"),
                });
            }
        })
    }

    /// A float tensor's data in f32: of an f32 tensor the file's own bytes, without a copy.
    pub(crate) fn data(&self, name: &str, shape: Vec<usize>) -> Result<TensorData, Error> {
        let entry = self.entry(name)?;
        if let (Dtype::F32, Place::Safetensors(bytes)) = (entry.dtype, &entry.place)
            && cfg!(target_endian = "little")
            && bytes.len() >= SHARED
            && bytes.as_ptr().cast::<f32>().is_aligned()
        {
            let bytes = Bytes::from_shared(bytes.clone(), AllocationProperty::File);
            return Ok(TensorData::from_bytes(bytes, shape, DType::F32));
        }
        Ok(TensorData::new(self.floats(name)?, shape))
    }

    /// The values of an integer tensor.
    ///
    /// # Errors
    ///
    /// As [`Self::floats`], for a tensor that is neither I64 nor I32.
    pub fn integers(&self, name: &str) -> Result<Vec<i64>, Error> {
        let entry = self.entry(name)?;
        let bytes = self.bytes_of(entry)?;
        match entry.dtype {
            Dtype::I64 => Ok(bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
            Dtype::I32 => {
                Ok(bytes.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect())
            }
            other => Err(Error::DataType {
                path: self.path.clone(),
                name: name.to_owned(),
                dtype: format!("{other:?}, where whole numbers are expected"),
            }),
        }
    }

    fn entry(&self, name: &str) -> Result<&Entry, Error> {
        self.entries.get(name).ok_or_else(|| Error::Index {
            path: self.path.clone(),
            reason: format!("it holds no tensor {name:?}"),
        })
    }

    fn bytes_of(&self, entry: &Entry) -> Result<bytes::Bytes, Error> {
        match &entry.place {
            Place::Safetensors(bytes) => Ok(bytes.clone()),
            #[cfg(feature = "pytorch")]
            Place::PyTorch(tensor) => {
                let invalid = |reason: String| Error::PyTorch { path: self.path.clone(), reason };
                let bytes = tensor.read().map_err(|error| invalid(error.to_string()))?;
                match bytes.len() == entry.byte_len() {
                    true => Ok(bytes.into()),
                    false => Err(invalid("a tensor is not as long as its shape says".to_owned())),
                }
            }
        }
    }
}

fn convert<const N: usize>(bytes: &[u8], value: impl Fn(&[u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(value).collect()
}

/// Half-precision values a piece at a time, by the processor's own conversion; the stored bytes need
/// not be aligned.
fn halves<T: bytemuck::Pod>(bytes: &[u8], convert: impl Fn(&[T], &mut [f32])) -> Vec<f32> {
    const PIECE: usize = 4096;
    let mut values = vec![0.0; bytes.len() / size_of::<T>()];
    let mut stored = vec![T::zeroed(); PIECE.min(values.len())];
    for (to, from) in values.chunks_mut(PIECE).zip(bytes.chunks(PIECE * size_of::<T>())) {
        let stored = &mut stored[..to.len()];
        let raw: &mut [u8] = bytemuck::cast_slice_mut(stored);
        raw.copy_from_slice(&from[..raw.len()]);
        if cfg!(target_endian = "big") {
            raw.chunks_mut(size_of::<T>()).for_each(<[u8]>::reverse);
        }
        convert(stored, to);
    }
    values
}

/// Writes tensors as a safetensors file, whole or not at all.
///
/// # Errors
///
/// [`Error::Write`] when the file cannot be written, [`Error::Safetensors`] for values that are not as many as their
/// shape says.
pub fn write(
    path: &Path,
    tensors: impl IntoIterator<Item = NamedTensor>,
    precision: Precision,
) -> Result<(), Error> {
    let dtype = match precision {
        Precision::Single => Dtype::F32,
        Precision::Half => Dtype::F16,
    };
    let encoded: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
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
