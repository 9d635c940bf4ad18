//! Converts stored values to f32 and back.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;

/// Converts stored floats to f32. Returns `None` for a type that holds no floats, or that is not supported for weights.
pub(crate) fn to_floats(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => each(bytes, |b| f32::from_le_bytes(*b)),
        Dtype::F64 => each(bytes, |b| f64::from_le_bytes(*b) as f32),
        Dtype::F16 => halves(bytes, |from: &[f16], to| from.convert_to_f32_slice(to)),
        Dtype::BF16 => halves(bytes, |from: &[bf16], to| from.convert_to_f32_slice(to)),
        Dtype::F8_E4M3 => eighths(bytes, e4m3),
        Dtype::F8_E5M2 => eighths(bytes, e5m2),
        _ => return None,
    })
}

/// Converts stored integers to i64. Returns `None` for another type.
pub(crate) fn to_integers(dtype: Dtype, bytes: &[u8]) -> Option<Vec<i64>> {
    Some(match dtype {
        Dtype::I64 => each(bytes, |b| i64::from_le_bytes(*b)),
        Dtype::I32 => each(bytes, |b| i64::from(i32::from_le_bytes(*b))),
        _ => return None,
    })
}

/// Converts values to the bytes that a file stores. The error is the first finite value that would become infinite.
pub(crate) fn from_floats(dtype: Dtype, values: &[f32]) -> Result<Vec<u8>, f32> {
    let overflows = |back: fn(f32) -> f32| {
        let first = values.iter().find(|value| value.is_finite() && !back(**value).is_finite());
        first.map_or(Ok(()), |value| Err(*value))
    };
    Ok(match dtype {
        Dtype::F16 => {
            overflows(|value| f16::from_f32(value).to_f32())?;
            values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()
        }
        Dtype::BF16 => {
            overflows(|value| bf16::from_f32(value).to_f32())?;
            values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect()
        }
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    })
}

/// Converts values of one byte each, with a table of all 256 codes.
fn eighths(bytes: &[u8], value: fn(u8) -> f32) -> Vec<f32> {
    let table: Vec<f32> = (0..=u8::MAX).map(value).collect();
    bytes.iter().filter_map(|byte| table.get(usize::from(*byte)).copied()).collect()
}

/// The format has 1 sign bit, 4 exponent bits with bias 7, and 3 mantissa bits. It has no infinity; the code with all
/// exponent and mantissa bits set is NaN.
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * 2.0_f32.powi(exponent - 7),
    };
    if code & 128 == 0 { magnitude } else { -magnitude }
}

/// A code of this format is the upper byte of an f16.
fn e5m2(code: u8) -> f32 {
    f16::from_bits(u16::from(code) << 8).to_f32()
}

fn each<const N: usize, T>(bytes: &[u8], value: impl Fn(&[u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(value).collect()
}

/// Converts half-precision values piece by piece, with the processor's conversion instructions where it has them. The
/// stored bytes need not be aligned.
fn halves<T: bytemuck::Pod>(bytes: &[u8], convert: impl Fn(&[T], &mut [f32])) -> Vec<f32> {
    const PIECE: usize = 4096;
    let mut values = vec![0.0; bytes.len() / size_of::<T>()];
    let mut stored = vec![T::zeroed(); PIECE.min(values.len())];
    for (to, from) in values.chunks_mut(PIECE).zip(bytes.chunks(PIECE * size_of::<T>())) {
        let stored = &mut stored[..to.len()];
        let raw: &mut [u8] = bytemuck::cast_slice_mut(stored);
        raw.copy_from_slice(&from[..raw.len()]);
        if cfg!(target_endian = "big") {
            raw.chunks_mut(size_of::<T>()).for_each(<[u8]>::reverse);
        }
        convert(stored, to);
    }
    values
}
