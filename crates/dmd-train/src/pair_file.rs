use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use dmd_weights::{Error as WeightsError, Precision, Tensors, write_with_metadata};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::Error;
use crate::fingerprint::Fingerprint;

/// A safetensors file of pairs: `z` and `x0`, and in its metadata the captions and what the pairs were made from.
#[derive(Debug)]
pub(crate) struct PairFile {
    path: PathBuf,
    captions: Vec<String>,
    made_from: Fingerprint,
    shape: [usize; 3],
    /// Where the values of `z` and `x0` begin.
    starts: [u64; 2],
}

impl PairFile {
    /// Writes a file, whole or not at all.
    pub(crate) fn write(
        path: &Path,
        z: Tensor<4>,
        x0: Tensor<4>,
        captions: &[String],
        made_from: &Fingerprint,
    ) -> Result<(), Error> {
        let about = serde_json::to_string(&(captions, made_from)).map_err(|error| {
            WeightsError::Safetensors { path: path.to_owned(), reason: error.to_string() }
        })?;
        let tensors = Tensors::from_device(path, [("z".to_owned(), z), ("x0".to_owned(), x0)])?;
        Ok(write_with_metadata(path, &tensors, Precision::Single, ("pairs", &about))?)
    }

    /// Reads the header.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
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
        let mut header = vec![0; length as usize + 8];
        file.rewind().and_then(|()| file.read_exact(&mut header)).map_err(read)?;
        // The tensors stay on the disk: `SafeTensors::read_metadata` wants the whole file.
        let header: Metadata = serde_json::from_slice(&header[8..]).map_err(|e| damaged(&e.to_string()))?;
        let about = header.metadata().as_ref().and_then(|metadata| metadata.get("pairs"));
        let about = about.ok_or_else(|| damaged("its metadata has no captions"))?;
        let (captions, made_from): (Vec<String>, Fingerprint) =
            serde_json::from_str(about).map_err(|e| damaged(&e.to_string()))?;
        let start = |name: &str| {
            let info = header.info(name).ok_or_else(|| damaged(&format!("no tensor {name:?}")))?;
            let [count, channels, height, width] = info.shape[..] else {
                return Err(damaged(&format!("{name:?} has the shape {:?}", info.shape)));
            };
            let (from, to) = info.data_offsets;
            let sizes = [count, channels, height, width, size_of::<f32>()];
            let bytes = sizes.into_iter().try_fold(1_usize, usize::checked_mul);
            let held = size - 8 - length;
            let whole = info.dtype == Dtype::F32
                && count == captions.len()
                && bytes.is_some_and(|bytes| to.checked_sub(from) == Some(bytes))
                && to as u64 <= held;
            if !whole {
                return Err(damaged(&format!("{name:?} is not whole")));
            }
            Ok((8 + length + from as u64, [channels, height, width]))
        };
        let ((z, shape), (x0, other)) = (start("z")?, start("x0")?);
        if shape != other {
            return Err(damaged("noise and samples have different shapes").into());
        }
        Ok(Self { path: path.to_owned(), captions, made_from, shape, starts: [z, x0] })
    }

    /// Checks that there are `wanted` pairs, that they fit a teacher, and that they were made from given settings.
    pub(crate) fn check(
        &self,
        wanted: usize,
        shape: [usize; 3],
        made_from: &Fingerprint,
    ) -> Result<(), Error> {
        let path = self.path.clone();
        if let Some((name, was, is)) = made_from.difference(&self.made_from) {
            return Err(Error::Changed { path, name, was, is });
        }
        if self.shape != shape {
            let reason = format!("samples of shape {:?}, expected {shape:?}", self.shape);
            return Err(WeightsError::Safetensors { path, reason }.into());
        }
        if self.len() < wanted {
            let reason = format!("{} pairs, expected {wanted}: make the pairs again", self.len());
            return Err(WeightsError::Safetensors { path, reason }.into());
        }
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.captions.len()
    }

    pub(crate) fn caption(&self, row: usize) -> &str {
        &self.captions[row]
    }

    /// Noise and sample of a row, each `[1, channels, height, width]`.
    pub(crate) fn row(&self, row: usize, device: &Device) -> Result<[Tensor<4>; 2], Error> {
        let read = |source| WeightsError::Read { path: self.path.clone(), source };
        let [channels, height, width] = self.shape;
        let mut file = File::open(&self.path).map_err(read)?;
        let mut bytes = vec![0; channels * height * width * size_of::<f32>()];
        let mut tensor = |start: u64| -> Result<Tensor<4>, Error> {
            let place = SeekFrom::Start(start + (row * bytes.len()) as u64);
            file.seek(place).and_then(|_| file.read_exact(&mut bytes)).map_err(read)?;
            let (values, _) = bytes.as_chunks::<4>();
            let values: Vec<f32> = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
            Ok(Tensor::from_data(TensorData::new(values, [1, channels, height, width]), device))
        };
        Ok([tensor(self.starts[0])?, tensor(self.starts[1])?])
    }
}
