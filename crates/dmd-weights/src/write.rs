//! Writes safetensors files, one tensor at a time.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::atomic::write_with;
use crate::{Error, Tensors, convert};

/// How parameters are stored in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    Single,
    /// 16-bit IEEE floats (f16): half the size, about three decimal digits, values up to 65504.
    Half,
    /// 16-bit floats with the range of 32-bit ones (bf16): half the size, about two decimal digits.
    Brain,
}

impl Precision {
    fn dtype(self) -> Dtype {
        match self {
            Self::Single => Dtype::F32,
            Self::Half => Dtype::F16,
            Self::Brain => Dtype::BF16,
        }
    }
}

/// Writes tensors as a safetensors file, completely or not at all. Floats are written in `precision`, other types
/// unchanged. Only one tensor at a time is in memory.
///
/// # Errors
///
/// [`Error::Write`] when the file cannot be written, [`Error::Overflow`] for a value that `precision` cannot hold, and
/// any error of reading a tensor.
pub fn write(path: &Path, tensors: &Tensors, precision: Precision) -> Result<(), Error> {
    // diffusers refuses a file whose metadata does not name a framework.
    write_with_metadata(path, tensors, precision, &[("format", "pt")])
}

/// As [`write()`], with other metadata, given as keys and values. It is for tensors that are no model. The metadata is
/// written in the order of its keys, so that equal tensors give equal files.
///
/// # Errors
///
/// As [`write()`].
pub fn write_with_metadata(
    path: &Path,
    tensors: &Tensors,
    precision: Precision,
    metadata: &[(&str, &str)],
) -> Result<(), Error> {
    let invalid = |reason: String| Error::Safetensors { path: path.to_owned(), reason };
    let stored = |dtype| match dtype {
        Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F8_E4M3 | Dtype::F8_E5M2 => {
            precision.dtype()
        }
        other => other,
    };
    // Tensors of the largest types come first, so that every tensor is aligned. Tensors of one type are sorted by name.
    let mut order: Vec<_> =
        tensors.entries().iter().map(|(name, entry)| (stored(entry.dtype), name, entry)).collect();
    order.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    let mut end = 0;
    let mut described = Vec::with_capacity(order.len());
    for (dtype, name, entry) in &order {
        let start = end;
        end += entry.len() * dtype.bitsize() / 8;
        let info = TensorInfo { dtype: *dtype, shape: entry.shape.clone(), data_offsets: (start, end) };
        described.push(((*name).clone(), info));
    }
    Metadata::new(None, described.clone()).map_err(|error| invalid(error.to_string()))?;
    let header = Header { metadata: metadata.iter().copied().collect(), tensors: described };
    let mut header = serde_json::to_vec(&header).map_err(|error| invalid(error.to_string()))?;
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');

    let failed = |source| Error::Write { path: path.to_owned(), source };
    write_with(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
        out.write_all(&header).map_err(failed)?;
        for (dtype, name, entry) in &order {
            let bytes = encoded(path, tensors, name, *dtype)?;
            if bytes.len() != entry.len() * dtype.bitsize() / 8 {
                return Err(invalid(format!("{name:?} has not as many values as its shape says")));
            }
            out.write_all(&bytes).map_err(failed)?;
        }
        Ok(())
    })
}

/// The header of a file to be written. It replaces the header type of the crate safetensors, which keeps the metadata
/// in a hash map without a fixed order.
struct Header<'a> {
    metadata: BTreeMap<&'a str, &'a str>,
    tensors: Vec<(String, TensorInfo)>,
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1 + self.tensors.len()))?;
        map.serialize_entry("__metadata__", &self.metadata)?;
        self.tensors.iter().try_for_each(|(name, info)| map.serialize_entry(name, info))?;
        map.end()
    }
}

fn encoded(path: &Path, tensors: &Tensors, name: &str, dtype: Dtype) -> Result<bytes::Bytes, Error> {
    if tensors.entries().get(name).is_some_and(|entry| entry.dtype == dtype) {
        return tensors.raw(name);
    }
    let bytes = convert::from_floats(dtype, &tensors.floats(name)?);
    bytes.map(Into::into).map_err(|value| Error::Overflow {
        path: path.to_owned(),
        name: name.to_owned(),
        value,
        dtype: format!("{dtype:?}"),
    })
}
