//! Opens model files: reads and checks their headers, and reads no value.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::TensorInfo;
use safetensors::{SafeTensorError, SafeTensors};
use serde_json::{Map, Value};

use crate::entry::{Entry, Source};
use crate::mapped::Region;
use crate::{Error, Tensors, embedded, shards};

/// Opens a model file and checks its header. Reads no value. The file is a safetensors file, the
/// `*.safetensors.index.json` of a sharded model, or (feature `pytorch`) a PyTorch state dict `*.bin`, `*.pt`, `*.pth`,
/// `*.ckpt`. Of a state dict only data is read; no code in it is executed.
///
/// # Errors
///
/// [`Error::Read`] when the file cannot be read, [`Error::Safetensors`] when it is truncated or its header does not
/// describe its content, [`Error::Index`] for an index whose shards are missing or lack a tensor, [`Error::PyTorch`]
/// for a state dict that cannot be read or is not supported by this build.
pub fn read(path: &Path) -> Result<Tensors, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut entries = BTreeMap::new();
    let (mut bytes, mut metadata) = (0, BTreeMap::new());
    if name.ends_with(".json") {
        for (shard, wanted) in shards::read_index(path)? {
            let (mut found, _) = header(&shard)?;
            bytes += file_len(&shard)?;
            for key in wanted {
                let entry = found.remove(&key).ok_or_else(|| Error::Index {
                    path: path.to_owned(),
                    reason: format!("{key:?} is not in {shard:?}"),
                })?;
                entries.insert(key, entry);
            }
        }
    } else {
        bytes = file_len(path)?;
        (entries, metadata) = match name.rsplit_once('.') {
            Some((_, "bin" | "pt" | "pth" | "ckpt")) => (state_dict(path)?, metadata),
            _ => header(path)?,
        };
    }
    Ok(Tensors::new(path.to_owned(), entries, bytes).with_metadata(metadata))
}

/// The value of a key in a safetensors file's metadata; `None` where the file does not have the key.
///
/// # Errors
///
/// [`Error::Read`] when the file cannot be read, [`Error::Safetensors`] when it is damaged.
pub fn read_metadata(path: &Path, key: &str) -> Result<Option<String>, Error> {
    let content = Region::open(path)?;
    let (_, metadata) = SafeTensors::read_metadata(content.as_ref())
        .map_err(|error| Error::Safetensors { path: path.to_owned(), reason: error.to_string() })?;
    Ok(metadata.metadata().as_ref().and_then(|entries| entries.get(key)).cloned())
}

fn file_len(path: &Path) -> Result<u64, Error> {
    if let Some(bytes) = embedded::bytes(path) {
        return Ok(bytes.len() as u64);
    }
    let metadata = fs::metadata(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(metadata.len())
}

/// The tensors of a file, and the metadata in its header.
type Header = (BTreeMap<String, Entry>, BTreeMap<String, String>);

/// Reads a safetensors header: the tensors that it describes, each of which lies inside the file, and its metadata.
fn header(path: &Path) -> Result<Header, Error> {
    let invalid = |reason: String| Error::Safetensors { path: path.to_owned(), reason };
    let content = Region::open(path)?;
    if content.as_ref().starts_with(b"GGUF") {
        return Err(Error::Checkpoint {
            path: path.to_owned(),
            reason: "a GGUF file, whose weights are quantised; use the model's safetensors file".to_owned(),
        });
    }
    let (length, metadata) = SafeTensors::read_metadata(content.as_ref()).map_err(|error| {
        invalid(wrong_length(content.as_ref(), &error).unwrap_or_else(|| error.to_string()))
    })?;
    let start = length + size_of::<u64>();
    let entry = |name: &str, info: &TensorInfo| {
        let (from, to) = info.data_offsets;
        let source = Source::Mapped(content.part(start + from..start + to));
        Entry::new(info.dtype, info.shape.clone(), source)
            .ok_or_else(|| invalid(format!("{name:?} is of shape {:?}", info.shape)))
    };
    let named = metadata.tensors().into_iter();
    let entries = named.map(|(name, info)| entry(&name, info).map(|entry| (name, entry)));
    let about = metadata.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone()));
    Ok((entries.collect::<Result<_, _>>()?, about.collect()))
}

/// Says how a file's length differs from the length that its header implies, if that is the cause of `error`.
fn wrong_length(content: &[u8], error: &SafeTensorError) -> Option<String> {
    let (first, rest) = content.split_first_chunk()?;
    let found = content.len() as u64;
    let values = u64::from_le_bytes(*first).checked_add(size_of::<u64>() as u64)?;
    if matches!(error, SafeTensorError::InvalidHeaderLength) {
        return (found < values).then(|| format!("truncated: {found} of more than {values} bytes"));
    }
    if !matches!(error, SafeTensorError::MetadataIncompleteBuffer) {
        return None;
    }
    let header = rest.get(..usize::try_from(u64::from_le_bytes(*first)).ok()?)?;
    let tensors: Map<String, Value> = serde_json::from_slice(header).ok()?;
    let end = |tensor: &Value| tensor.get("data_offsets")?.get(1)?.as_u64();
    let whole = values.checked_add(tensors.values().filter_map(end).max().unwrap_or(0))?;
    Some(match found < whole {
        true => format!("truncated: {found} of {whole} bytes"),
        false => format!("{} bytes follow its last tensor", found - whole),
    })
}

#[cfg(not(feature = "pytorch"))]
fn state_dict(path: &Path) -> Result<BTreeMap<String, Entry>, Error> {
    Err(Error::PyTorch {
        path: path.to_owned(),
        reason: "this build reads safetensors only; build with the feature `pytorch`".to_owned(),
    })
}

#[cfg(feature = "pytorch")]
fn state_dict(path: &Path) -> Result<BTreeMap<String, Entry>, Error> {
    use pytorch_reader::DType as Stored;
    use safetensors::Dtype;
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
            // A training's checkpoint may hold such tensors beside the weights. A weight of such a type is refused when
            // it is read.
            Stored::I16 => Dtype::I16,
            Stored::I8 => Dtype::I8,
            Stored::U64 => Dtype::U64,
            Stored::U32 => Dtype::U32,
            Stored::U16 => Dtype::U16,
            Stored::U8 => Dtype::U8,
            Stored::Bool => Dtype::BOOL,
        };
        let shape = tensor.shape().to_vec();
        let entry = Entry::new(dtype, shape.clone(), Source::PyTorch(std::sync::Arc::new(tensor)));
        let entry = entry.ok_or_else(|| invalid(format!("{name:?} is of shape {shape:?}")))?;
        entries.insert(name, entry);
    }
    Ok(entries)
}
