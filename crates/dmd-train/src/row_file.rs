use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use dmd_weights::{Error as WeightsError, Precision, Tensors, write_with_metadata};
use half::f16;
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::Error;
use crate::fingerprint::Fingerprint;

/// A safetensors file of rows, one for each of its captions, which are in its metadata with what the rows were made from.
/// Rows are read when they are asked for.
#[derive(Debug)]
pub(crate) struct RowFile {
    path: PathBuf,
    captions: Vec<String>,
    made_from: Fingerprint,
    tensors: BTreeMap<String, Rows>,
}

/// Where the rows of a tensor lie.
#[derive(Debug)]
struct Rows {
    start: u64,
    /// The shape of one row.
    shape: Vec<usize>,
    dtype: Dtype,
}

impl RowFile {
    /// Writes tensors `[captions, ..]`, whole or not at all; `kind` is the name of captions and fingerprint in the
    /// metadata.
    pub(crate) fn write<const D: usize>(
        path: &Path,
        kind: &str,
        tensors: impl IntoIterator<Item = (&'static str, Tensor<D>)>,
        precision: Precision,
        about: (&[String], &Fingerprint),
    ) -> Result<(), Error> {
        let about = serde_json::to_string(&about).map_err(|error| WeightsError::Safetensors {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let named = tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor));
        let tensors = Tensors::from_device(path, named)?;
        Ok(write_with_metadata(path, &tensors, precision, &[(kind, &about)])?)
    }

    /// Reads the header. Nothing that it says is believed before it fits the file's length.
    pub(crate) fn open(path: &Path, kind: &str, names: &[&str]) -> Result<Self, Error> {
        let damaged =
            |reason: &str| WeightsError::Safetensors { path: path.to_owned(), reason: reason.to_owned() };
        let read = |source| WeightsError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(read)?;
        let length = u64::from_le_bytes(length);
        if length > size.saturating_sub(8) {
            return Err(damaged("its header is longer than the file").into());
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(read)?;
        // The tensors stay on the disk: `SafeTensors::read_metadata` wants the whole file.
        let header: Metadata = serde_json::from_slice(&header).map_err(|e| damaged(&e.to_string()))?;
        let about = header.metadata().as_ref().and_then(|metadata| metadata.get(kind));
        let about = about.ok_or_else(|| damaged("its metadata has no captions"))?;
        let (captions, made_from): (Vec<String>, Fingerprint) =
            serde_json::from_str(about).map_err(|e| damaged(&e.to_string()))?;
        let mut tensors = BTreeMap::new();
        for name in names {
            let Some(info) = header.info(name) else { continue };
            let bytes_each = match info.dtype {
                Dtype::F32 => Some(size_of::<f32>()),
                Dtype::F16 => Some(size_of::<f16>()),
                _ => None,
            };
            let (from, to) = info.data_offsets;
            let bytes = bytes_each
                .and_then(|each| info.shape.iter().try_fold(each, |all, side| all.checked_mul(*side)));
            let whole = info.shape.first() == Some(&captions.len())
                && bytes.is_some_and(|bytes| to.checked_sub(from) == Some(bytes))
                && to as u64 <= size - 8 - length;
            if !whole {
                return Err(damaged(&format!("{name:?} is not whole")).into());
            }
            let rows =
                Rows { start: 8 + length + from as u64, shape: info.shape[1..].to_vec(), dtype: info.dtype };
            tensors.insert((*name).to_owned(), rows);
        }
        Ok(Self { path: path.to_owned(), captions, made_from, tensors })
    }

    /// Checks that the rows were made from given settings.
    pub(crate) fn check(&self, made_from: &Fingerprint) -> Result<(), Error> {
        match made_from.difference(&self.made_from) {
            Some((name, was, is)) => Err(Error::Changed { path: self.path.clone(), name, was, is }),
            None => Ok(()),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The captions, one for each row.
    pub(crate) fn captions(&self) -> &[String] {
        &self.captions
    }

    /// The shape of one row of a tensor, without the number of rows; `None` where there is no such tensor.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|rows| rows.shape.as_slice())
    }

    /// A row of a tensor, `[1, ..]`, in f32.
    ///
    /// # Errors
    ///
    /// When there is no such tensor or row, the row has another rank, or the file cannot be read any more.
    pub(crate) fn row<const D: usize>(
        &self,
        name: &str,
        row: usize,
        device: &Device,
    ) -> Result<Tensor<D>, Error> {
        let read = |source| WeightsError::Read { path: self.path.clone(), source };
        let damaged = || WeightsError::Safetensors {
            path: self.path.clone(),
            reason: format!("no row {row} of {name:?}"),
        };
        let rows =
            self.tensors.get(name).filter(|rows| rows.shape.len() + 1 == D && row < self.captions.len());
        let Rows { start, shape, dtype } = rows.ok_or_else(damaged)?;
        let each = if *dtype == Dtype::F16 { size_of::<f16>() } else { size_of::<f32>() };
        let mut bytes = vec![0; each * shape.iter().product::<usize>()];
        let mut file = File::open(&self.path).map_err(read)?;
        file.seek(SeekFrom::Start(start + (row * bytes.len()) as u64))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(read)?;
        let values: Vec<f32> = match dtype {
            Dtype::F16 => {
                bytes.as_chunks::<2>().0.iter().map(|value| f16::from_le_bytes(*value).to_f32()).collect()
            }
            _ => bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect(),
        };
        let sides: Vec<usize> = std::iter::once(1).chain(shape.iter().copied()).collect();
        Ok(Tensor::from_data(TensorData::new(values, sides), device))
    }
}
