use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::{Error, shards};

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

/// Longest header that is read, in bytes: the limit of the safetensors format itself.
const MAX_HEADER: u64 = 100_000_000;

/// Values converted at a time, so that a half-precision tensor is never held twice.
const CHUNK: usize = 1 << 18;

/// A model file, or several shards of one: its header is read and checked, its tensors are not read
/// before they are asked for.
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
    Safetensors {
        path: PathBuf,
        start: u64,
    },
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

/// The tensors that a safetensors header describes, all of them inside the file.
fn header(path: &Path) -> Result<BTreeMap<String, Entry>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let invalid = |reason: String| Error::Safetensors { path: path.to_owned(), reason };
    let mut file = File::open(path).map_err(failed)?;
    let total = file.metadata().map_err(failed)?.len();
    let mut length = [0; 8];
    if total < 8 {
        return Err(invalid("it ends inside the header".to_owned()));
    }
    file.read_exact(&mut length).map_err(failed)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER || length > total - 8 {
        return Err(invalid("the header is longer than the file".to_owned()));
    }
    let mut text = vec![0; length as usize];
    file.read_exact(&mut text).map_err(failed)?;
    let metadata: Metadata = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
    let start = 8 + length;
    if start.checked_add(metadata.data_len() as u64) != Some(total) {
        return Err(invalid("its length is not what the header says".to_owned()));
    }
    let entry = |info: &safetensors::tensor::TensorInfo| Entry {
        dtype: info.dtype,
        shape: info.shape.clone(),
        place: Place::Safetensors { path: path.to_owned(), start: start + info.data_offsets.0 as u64 },
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
    use pytorch_reader::DType;
    file_len(path)?;
    let invalid = |reason: String| Error::PyTorch { path: path.to_owned(), reason };
    let reader = pytorch_reader::PytorchReader::new(path).map_err(|error| invalid(error.to_string()))?;
    let mut entries = BTreeMap::new();
    for (name, tensor) in reader.into_tensors() {
        let dtype = match tensor.dtype() {
            DType::F64 => Dtype::F64,
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            DType::I64 => Dtype::I64,
            DType::I32 => Dtype::I32,
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
    /// one that is not there, [`Error::Read`] when the file has become shorter.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, Error> {
        let entry = self.entry(name)?;
        match entry.dtype {
            Dtype::F32 => self.convert(entry, |bytes: &[f32], to| to.copy_from_slice(bytes)),
            Dtype::F16 => self.convert(entry, |from: &[f16], to| from.convert_to_f32_slice(to)),
            Dtype::BF16 => self.convert(entry, |from: &[bf16], to| from.convert_to_f32_slice(to)),
            Dtype::F64 => self.convert(entry, |from: &[f64], to| {
                from.iter().zip(to).for_each(|(from, to)| *to = *from as f32);
            }),
            other => Err(Error::DataType {
                path: self.path.clone(),
                name: name.to_owned(),
                dtype: format!("{other:?}"),
            }),
        }
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

    /// Reads a tensor piece by piece, so that its stored form is never in memory as a whole.
    fn convert<T: bytemuck::Pod>(
        &self,
        entry: &Entry,
        convert: impl Fn(&[T], &mut [f32]),
    ) -> Result<Vec<f32>, Error> {
        let mut values = vec![0.0_f32; entry.len()];
        let (path, start) = match &entry.place {
            Place::Safetensors { path, start } => (path, start),
            #[cfg(feature = "pytorch")]
            Place::PyTorch(_) => {
                let stored: Vec<T> = bytemuck::pod_collect_to_vec(&self.bytes_of(entry)?);
                convert(&stored, &mut values);
                return Ok(values);
            }
        };
        let failed = |source| Error::Read { path: path.clone(), source };
        let mut file = File::open(path).map_err(failed)?;
        file.seek(SeekFrom::Start(*start)).map_err(failed)?;
        if entry.dtype == Dtype::F32 && cfg!(target_endian = "little") {
            file.read_exact(bytemuck::cast_slice_mut(&mut values)).map_err(failed)?;
            return Ok(values);
        }
        let mut stored = vec![T::zeroed(); CHUNK.min(values.len())];
        for piece in values.chunks_mut(CHUNK) {
            let stored = &mut stored[..piece.len()];
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(stored);
            file.read_exact(bytes).map_err(failed)?;
            if cfg!(target_endian = "big") {
                bytes.chunks_mut(size_of::<T>()).for_each(<[u8]>::reverse);
            }
            convert(stored, piece);
        }
        Ok(values)
    }

    fn bytes_of(&self, entry: &Entry) -> Result<Vec<u8>, Error> {
        match &entry.place {
            Place::Safetensors { path, start } => {
                let failed = |source| Error::Read { path: path.clone(), source };
                let mut bytes = vec![0; entry.byte_len()];
                let mut file = File::open(path).map_err(failed)?;
                file.seek(SeekFrom::Start(*start)).map_err(failed)?;
                file.read_exact(&mut bytes).map_err(failed)?;
                Ok(bytes)
            }
            #[cfg(feature = "pytorch")]
            Place::PyTorch(tensor) => {
                let invalid = |reason: String| Error::PyTorch { path: self.path.clone(), reason };
                let bytes = tensor.read().map_err(|error| invalid(error.to_string()))?;
                match bytes.len() == entry.byte_len() {
                    true => Ok(bytes),
                    false => Err(invalid("a tensor is not as long as its shape says".to_owned())),
                }
            }
        }
    }
}

/// Writes bytes to a sibling of `path` and renames it, so that `path` is always whole: the old
/// content or the new. Missing parent folders are made.
///
/// # Errors
///
/// [`Error::Write`] when a step fails; the sibling is removed.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(parent) = parent {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}-{}.tmp", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    let sibling = path.with_file_name(name);
    let written = fs::File::create(&sibling)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&sibling, path));
    written.map_err(|source| {
        // The first failure is what the caller must hear; a leftover sibling is only litter.
        let _ = fs::remove_file(&sibling);
        failed(source)
    })
}
