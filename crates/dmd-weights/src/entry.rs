//! One tensor of a view: its type, its shape, and the source of its values.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::Tensor;
use safetensors::Dtype;

use crate::mapped::Region;
use crate::tensors::SHARED;
use crate::{Error, Tensors};

/// The name of the tensor in a view that [`Entry::alone`] makes.
pub(crate) const ALONE: &str = "tensor";

/// One tensor of [`Tensors`].
#[derive(Debug, Clone)]
pub struct Entry {
    /// The tensor's type in the file.
    pub dtype: Dtype,
    /// The tensor's shape in the file.
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
    /// Makes a tensor. Returns `None` when its size in bits does not fit into `usize`.
    pub(crate) fn new(dtype: Dtype, shape: Vec<usize>, source: Source) -> Option<Self> {
        let values = shape.iter().try_fold(1_usize, |product, axis| product.checked_mul(*axis))?;
        values.checked_mul(dtype.bitsize().max(8 * size_of::<f32>())).map(|_| Self { dtype, shape, source })
    }

    /// Makes an entry for a tensor on a device. The entry holds a handle; values are copied to the host when they are
    /// read.
    pub(crate) fn on_device<const D: usize>(tensor: Tensor<D>) -> Option<Self> {
        let shape = tensor.dims().to_vec();
        let values = move || Ok(tensor.clone().into_data().convert::<f32>().iter::<f32>().collect());
        Self::new(Dtype::F32, shape, Source::Computed(Arc::new(values)))
    }

    /// Makes a tensor whose values `values` computes whenever they are read.
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

    /// Divides the tensor into `parts` equal parts along the first axis, and returns the part `index`. For a mapped
    /// file the part is a view and has the type of the file.
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

    /// Transposes a matrix.
    pub(crate) fn transposed(&self) -> Option<Self> {
        let [rows, columns] = *self.shape.as_slice() else { return None };
        let whole = self.alone();
        Self::computed(self.exact(), vec![columns, rows], move || {
            let values = whole.unrounded(ALONE)?;
            let column = |c: usize| values.iter().skip(c).step_by(columns).copied();
            Ok((0..columns).flat_map(column).collect())
        })
    }

    /// Multiplies the values by `scale`, which holds one number, or one number for each row.
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

    /// A view with this tensor as its only one.
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

    /// The type of a tensor that is made by rearranging this tensor's values. The values fit into it.
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

    /// Whether the tensor has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of bytes in the file.
    pub fn byte_len(&self) -> usize {
        self.len() * self.dtype.bitsize() / 8
    }
}
