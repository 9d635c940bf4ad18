//! Weights as they are stored: in single precision, or in half precision and read as single where they are used. A half-precision
//! weight is read from memory in half the time, and no full copy of it is made.

use std::ops::Range;

use burn::backend::flex::FlexTensor;
use burn::tensor::DType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::instructions::Pairs;
use super::scratch::Scratch;

/// The elements of a contiguous tensor.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stored<'a> {
    Single(&'a [f32]),
    Half(&'a [f16]),
    Brain(&'a [bf16]),
}

/// Values that one thread converts at a time.
const CHUNK: usize = 1 << 14;

/// Whether a float type is read by [`Stored`].
pub(super) fn is_read(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

impl<'a> Stored<'a> {
    /// # Panics
    ///
    /// If the tensor is of a type that [`is_read`] does not name.
    pub(super) fn of(tensor: &'a FlexTensor) -> Self {
        let start = tensor.layout().start_offset();
        let range = start..start + tensor.layout().num_elements();
        match tensor.dtype() {
            DType::F32 => Self::Single(&tensor.storage::<f32>()[range]),
            DType::F16 => Self::Half(&tensor.storage::<f16>()[range]),
            DType::BF16 => Self::Brain(&tensor.storage::<bf16>()[range]),
            other => panic!("a weight of type {other:?} is not read"),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Single(values) => values.len(),
            Self::Half(values) => values.len(),
            Self::Brain(values) => values.len(),
        }
    }

    pub(super) fn part(&self, range: Range<usize>) -> Self {
        match self {
            Self::Single(values) => Self::Single(&values[range]),
            Self::Half(values) => Self::Half(&values[range]),
            Self::Brain(values) => Self::Brain(&values[range]),
        }
    }

    /// The values in single precision, to as many places.
    pub(super) fn read(&self, out: &mut [f32]) {
        match self {
            Self::Single(values) => out.copy_from_slice(values),
            Self::Half(values) => values.convert_to_f32_slice(out),
            Self::Brain(values) => {
                for (out, value) in out.iter_mut().zip(*values) {
                    *out = f32::from_bits(u32::from(value.to_bits()) << 16);
                }
            }
        }
    }

    /// The values in single precision: those stored, or in `room`.
    pub(super) fn read_in<'b>(&self, room: &'b mut [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        if let Self::Single(values) = self {
            return values;
        }
        let room = &mut room[..self.len()];
        self.read(room);
        room
    }

    /// The bits of rows of `depth` values as pairs, where they are stored in bf16 and rows are whole pairs.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn stored_pairs(&self, depth: usize) -> Option<&'a [f32]> {
        match self {
            Self::Brain(values) if depth.is_multiple_of(2) => {
                pulp::bytemuck::try_cast_slice(values.reinterpret_cast()).ok()
            }
            _ => None,
        }
    }

    /// Rows of `depth` values as pairs of bf16, the last with zero where the depth is odd.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn pairs(&self, by: Pairs, depth: usize) -> Values<'a> {
        if let Some(pairs) = self.stored_pairs(depth) {
            return Values::Stored(pairs);
        }
        let (rows, half) = (self.len() / depth.max(1), depth.div_ceil(2));
        let mut room = Scratch::new(rows * half);
        let some = (CHUNK / depth.max(1)).max(1);
        room.par_chunks_mut((some * half).max(1)).enumerate().for_each_init(
            || vec![0.0; if matches!(self, Self::Single(_)) { 0 } else { depth }],
            |read, (i, out)| {
                for (row, out) in out.chunks_exact_mut(half).enumerate() {
                    let start = (i * some + row) * depth;
                    by.paired(self.part(start..start + depth).read_in(read), out);
                }
            },
        );
        Values::Read(room)
    }

    /// All values in single precision, read by all threads where they are not stored so.
    pub(super) fn single(&self) -> Values<'a> {
        if let Self::Single(values) = self {
            return Values::Stored(values);
        }
        let mut room = Scratch::new(self.len());
        room.par_chunks_mut(CHUNK).enumerate().for_each(|(i, out)| {
            self.part(i * CHUNK..i * CHUNK + out.len()).read(out);
        });
        Values::Read(room)
    }
}

/// Values in single precision.
pub(super) enum Values<'a> {
    Stored(&'a [f32]),
    Read(Scratch),
}

impl std::ops::Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Stored(values) => values,
            Self::Read(values) => values,
        }
    }
}
