use std::path::Path;

use burn::tensor::{Device, Tensor};
use dmd_weights::{Error as WeightsError, Precision};

use crate::Error;
use crate::fingerprint::Fingerprint;
use crate::row_file::RowFile;

/// A safetensors file of pairs: `z` and `x0`, and in its metadata the captions and what the pairs were made from.
#[derive(Debug)]
pub(crate) struct PairFile(RowFile);

impl PairFile {
    /// Writes a file, whole or not at all.
    pub(crate) fn write(
        path: &Path,
        z: Tensor<4>,
        x0: Tensor<4>,
        captions: &[String],
        made_from: &Fingerprint,
    ) -> Result<(), Error> {
        RowFile::write(path, "pairs", [("z", z), ("x0", x0)], Precision::Single, (captions, made_from))
    }

    /// Reads the header.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let file = RowFile::open(path, "pairs", &["z", "x0"])?;
        let damaged = |reason: String| WeightsError::Safetensors { path: path.to_owned(), reason };
        let shape = |name: &str| file.shape(name).ok_or_else(|| damaged(format!("no tensor {name:?}")));
        if shape("z")? != shape("x0")? {
            return Err(damaged("noise and samples have different shapes".to_owned()).into());
        }
        Ok(Self(file))
    }

    /// Checks that there are `wanted` pairs, that they fit a teacher, and that they were made from given settings.
    pub(crate) fn check(
        &self,
        wanted: usize,
        shape: [usize; 3],
        made_from: &Fingerprint,
    ) -> Result<(), Error> {
        self.0.check(made_from)?;
        let damaged = |reason| WeightsError::Safetensors { path: self.0.path().to_owned(), reason };
        let found = self.0.shape("x0").unwrap_or_default();
        if found != shape {
            return Err(damaged(format!("samples of shape {found:?}, expected {shape:?}")).into());
        }
        if self.len() < wanted {
            return Err(
                damaged(format!("{} pairs, expected {wanted}: make the pairs again", self.len())).into()
            );
        }
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.captions().len()
    }

    pub(crate) fn caption(&self, row: usize) -> &str {
        &self.0.captions()[row]
    }

    /// Noise and sample of a row, each `[1, channels, height, width]`.
    pub(crate) fn row(&self, row: usize, device: &Device) -> Result<[Tensor<4>; 2], Error> {
        Ok([self.0.row("z", row, device)?, self.0.row("x0", row, device)?])
    }
}
