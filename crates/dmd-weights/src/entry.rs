//! One tensor of a view: its type, its shape, and where its values come from.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::Tensor;
use safetensors::Dtype;

use crate::mapped::Region;
use crate::tensors::SHARED;
use crate::{Error, Tensors};

/// The name of a tensor that is [alone](Entry::alone).
pub(crate) const ALONE: &str = "tensor";

/// One tensor of [`Tensors`].
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its type in the file.
    pub dtype: Dtype,
    /// Its shape in the file.
    pub shape: Vec<usize>,
    pub(crate) source: Source,
}

/// Computes a tensor's values.
pub(crate) type Values = dyn Fn() -> Result<Vec<f32>, Error> + Send + Sync;

/// Where a tensor's values come from.
#[derive(Clone)]
pub(crate) enum Source {
    Mapped(Region),
    #[cfg(feature = "pytorch")]
    PyTorch(Arc<pytorch_reader::Tensor>),
    Computed(Arc<Values>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mapped(_) => "mapped",
            #[cfg(feature = "pytorch")]
            Self::PyTorch(_) => "state dict",
            Self::Computed(_) => "computed",
        })
    }
}

impl Entry {
    /// A tensor, or nothing when its size in bits is more than a computer counts.
    pub(crate) fn new(dtype: Dtype, shape: Vec<usize>, source: Source) -> Option<Self> {
        let values = shape.iter().try_fold(1_usize, |product, axis| product.checked_mul(*axis))?;
        values.checked_mul(dtype.bitsize().max(8 * size_of::<f32>())).map(|_| Self { dtype, shape, source })
    }

    /// A tensor on a device. It is a handle: its values are copied when they are asked for.
    pub(crate) fn on_device<const D: usize>(tensor: Tensor<D>) -> Option<Self> {
        let shape = tensor.dims().to_vec();
        let values = move || Ok(tensor.clone().into_data().convert::<f32>().iter::<f32>().collect());
        Self::new(Dtype::F32, shape, Source::Computed(Arc::new(values)))
    }

    /// A tensor that is computed from another one when it is asked for, of type `dtype` and of shape `shape`.
    pub(crate) fn computed(
        dtype: Dtype,
        shape: Vec<usize>,
        values: impl Fn() -> Result<Vec<f32>, Error> + Send + Sync + 'static,
    ) -> Option<Self> {
        Self::new(dtype, shape, Source::Computed(Arc::new(values)))
    }

    /// The same values in another shape.
    pub(crate) fn reshaped(&self, shape: Vec<usize>) -> Option<Self> {
        (shape.iter().product::<usize>() == self.len()).then(|| Self { shape, ..self.clone() })
    }

    /// Part `index` of `parts` equal ones along the first axis. Of a mapped file it is a view, with the tensor's own type.
    pub(crate) fn rows(&self, index: usize, parts: usize) -> Option<Self> {
        let rows = self.shape.first().filter(|rows| parts > 0 && *rows % parts == 0)? / parts;
        let shape: Vec<usize> = [rows].iter().chain(self.shape.iter().skip(1)).copied().collect();
        if let Source::Mapped(region) = &self.source {
            let bytes = self.byte_len() / parts;
            let source = Source::Mapped(region.part(index * bytes..(index + 1) * bytes));
            return Self::new(self.dtype, shape, source);
        }
        let (whole, len) = (self.alone(), self.len() / parts);
        Self::computed(self.exact(), shape, move || {
            let values = whole.unrounded(ALONE)?;
            Ok(values.get(index * len..(index + 1) * len).unwrap_or_default().to_vec())
        })
    }

    /// A matrix `[a, b]` as `[b, a]`.
    pub(crate) fn transposed(&self) -> Option<Self> {
        let [rows, columns] = *self.shape.as_slice() else { return None };
        let whole = self.alone();
        Self::computed(self.exact(), vec![columns, rows], move || {
            let values = whole.unrounded(ALONE)?;
            let column = |c: usize| values.iter().skip(c).step_by(columns).copied();
            Ok((0..columns).flat_map(column).collect())
        })
    }

    /// The values times the numbers of `scale`: one, or one for each row.
    pub(crate) fn scaled(&self, scale: &Self) -> Option<Self> {
        let (len, scales) = (self.len(), scale.len());
        if scales == 0 || (scales > 1 && Some(&scales) != self.shape.first()) {
            return None;
        }
        let (whole, scale) = (self.alone(), scale.alone());
        Self::computed(Dtype::F32, self.shape.clone(), move || {
            let mut values = whole.unrounded(ALONE)?;
            let rows = values.chunks_mut((len / scales).max(1));
            for (row, scale) in rows.zip(scale.unrounded(ALONE)?) {
                row.iter_mut().for_each(|value| *value *= scale);
            }
            Ok(values)
        })
    }

    /// This tensor as the only one of a view.
    pub(crate) fn alone(&self) -> Tensors {
        Tensors::new(PathBuf::new(), [(ALONE.to_owned(), self.clone())].into(), 0)
    }

    /// See [`Tensors::release`].
    pub(crate) fn release(&self) {
        if let Source::Mapped(region) = &self.source
            && region.len() >= SHARED
        {
            region.release();
        }
    }

    /// The type that values which are computed from this tensor without arithmetic fit in.
    fn exact(&self) -> Dtype {
        match self.dtype {
            dtype @ (Dtype::F16 | Dtype::BF16) => dtype,
            _ => Dtype::F32,
        }
    }

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
