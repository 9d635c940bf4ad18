//! The reference file of a comparison.

use burn::tensor::{Device, Tensor, TensorData};
use dmd_weights::Tensors;

use super::{Comparison, Tolerances};
use crate::Error;

/// An opened reference file.
pub(super) struct Reference<'a> {
    pub(super) file: &'a Tensors,
    pub(super) device: &'a Device,
}

impl Reference<'_> {
    pub(super) fn has(&self, keys: &[&str]) -> bool {
        keys.iter().all(|key| self.file.entries().contains_key(*key))
    }

    pub(super) fn refuse(&self, reason: String) -> Error {
        Error::Reference { path: self.file.path().to_owned(), reason }
    }

    pub(super) fn shape<const D: usize>(&self, key: &str) -> Result<[usize; D], Error> {
        let shape = self.file.entries().get(key).map(|entry| entry.shape.clone()).unwrap_or_default();
        let found = format!("{key:?} is of shape {shape:?}; it has {D} dimensions, none of them 0");
        shape
            .try_into()
            .ok()
            .filter(|shape: &[usize; D]| !shape.contains(&0))
            .ok_or_else(|| self.refuse(found))
    }

    pub(super) fn tensor<const D: usize>(&self, key: &str) -> Result<Tensor<D>, Error> {
        let shape: [usize; D] = self.shape(key)?;
        let values = match self.file.floats(key) {
            // Timesteps and guidance may be stored as integers.
            Err(dmd_weights::Error::DataType { .. }) => {
                self.file.integers(key)?.into_iter().map(|v| v as f32).collect()
            }
            values => values?,
        };
        Ok(Tensor::from_data(TensorData::new(values, shape), self.device))
    }

    pub(super) fn scalar(&self, key: &str) -> Result<f64, Error> {
        let value: Tensor<1> = self.tensor(key)?;
        Ok(f64::from(value.narrow(0, 0, 1).into_scalar::<f32>()))
    }

    /// Reads lists of tokens, one per row, and checks that they fit the text encoder.
    pub(super) fn ids(&self, key: &str, vocabulary: usize, positions: usize) -> Result<Vec<Vec<u32>>, Error> {
        let shape: [usize; 2] = self.shape(key)?;
        let ids = self.file.integers(key)?;
        if shape[1] > positions || ids.iter().any(|id| *id < 0 || *id >= vocabulary as i64) {
            let reason = format!("{key:?} go beyond {positions} positions or {vocabulary} tokens");
            return Err(self.refuse(reason));
        }
        let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
        Ok(ids.chunks(shape[1]).map(<[u32]>::to_vec).collect())
    }

    /// Checks that a matrix has the expected shape.
    pub(super) fn rows(&self, key: &str, wanted: [usize; 2]) -> Result<(), Error> {
        match self.shape::<2>(key)? {
            found if found == wanted => Ok(()),
            found => Err(self.refuse(format!("{key:?} is of shape {found:?}, here it is {wanted:?}"))),
        }
    }

    /// Checks the number of channels, and that height and width are multiples of `multiple`, so that an unsuitable file
    /// gives an error instead of a panic.
    pub(super) fn fits(&self, key: &str, channels: usize, multiple: usize) -> Result<(), Error> {
        let [_, found, height, width] = self.shape::<4>(key)?;
        if found != channels || !height.is_multiple_of(multiple) || !width.is_multiple_of(multiple) {
            let reason = format!(
                "{key:?} is {found} × {height} × {width}; {channels} channels and multiples of {multiple}"
            );
            return Err(self.refuse(reason));
        }
        Ok(())
    }

    pub(super) fn compare<const D: usize>(
        &self,
        module: &'static str,
        found: Tensor<D>,
        tolerances: &Tolerances,
    ) -> Result<Comparison, Error> {
        let expected: [usize; D] = self.shape(module)?;
        if found.dims() != expected {
            let dims = found.dims();
            return Err(self.refuse(format!("{module:?} is {expected:?}, this model gives {dims:?}")));
        }
        let expected = self.file.floats(module)?;
        let found = found.into_data().convert::<f32>();
        let (mut max, mut errors, mut scale, mut beyond) = (0.0_f64, 0.0, 0.0, 0);
        for (a, b) in found.iter::<f32>().zip(&expected) {
            let (a, b) = (f64::from(a), f64::from(*b));
            let apart = (a - b).abs();
            // The test is "not within" instead of "beyond", so that a NaN counts as beyond.
            let within = apart <= tolerances.absolute + tolerances.relative * b.abs();
            beyond += usize::from(!within);
            // `f64::max` ignores a NaN, so a NaN is kept explicitly.
            max = if max.is_nan() || apart.is_nan() { f64::NAN } else { max.max(apart) };
            errors += apart * apart;
            scale += b * b;
        }
        let relative = if errors == 0.0 { 0.0 } else { (errors / scale).sqrt() };
        Ok(Comparison { module, values: expected.len(), max_absolute: max, relative, beyond })
    }
}
