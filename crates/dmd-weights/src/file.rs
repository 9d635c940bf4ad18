use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use crate::Error;

/// How parameters are stored in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    Single,
    /// 16-bit IEEE floats: half the size, about three decimal digits.
    Half,
}

/// A tensor's name, shape and values in f32.
pub type NamedTensor = (String, Vec<usize>, Vec<f32>);

/// A safetensors file in memory, its header checked.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// Reads and checks a safetensors file.
///
/// # Errors
///
/// [`Error::Read`] when it cannot be read, [`Error::Safetensors`] when it is truncated or its
/// header does not describe its content.
pub fn read(path: &Path) -> Result<TensorFile, Error> {
    let bytes = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let file = TensorFile { path: path.to_owned(), bytes };
    file.parse()?;
    Ok(file)
}

impl TensorFile {
    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn parse(&self) -> Result<SafeTensors<'_>, Error> {
        SafeTensors::deserialize(&self.bytes)
            .map_err(|error| Error::Safetensors { path: self.path.clone(), reason: error.to_string() })
    }

    /// Every float tensor: name, shape and values in f32.
    ///
    /// # Errors
    ///
    /// [`Error::DataType`] for a tensor that is neither F16, BF16, F32 nor F64; integer buffers
    /// named `position_ids`, which older CLIP files carry, are passed over.
    pub fn floats(&self) -> Result<Vec<NamedTensor>, Error> {
        let mut all = Vec::new();
        for (name, view) in self.parse()?.tensors() {
            let data = view.data();
            let values = match view.dtype() {
                Dtype::F32 => decode(data, f32::from_le_bytes),
                Dtype::F16 => decode(data, |b| f16::from_le_bytes(b).to_f32()),
                Dtype::BF16 => decode(data, |b| bf16::from_le_bytes(b).to_f32()),
                Dtype::F64 => decode(data, |b| f64::from_le_bytes(b) as f32),
                _ if name.ends_with("position_ids") => continue,
                other => {
                    return Err(Error::DataType {
                        path: self.path.clone(),
                        name,
                        dtype: format!("{other:?}"),
                    });
                }
            };
            all.push((name, view.shape().to_vec(), values));
        }
        Ok(all)
    }
}

fn decode<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| f(*chunk)).collect()
}

/// Writes bytes to a sibling of `path` and renames it, so that `path` is always whole: the old
/// content or the new. Missing parent folders are made.
///
/// # Errors
///
/// [`Error::Write`] when a step fails; the sibling is removed.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(parent) = parent {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}-{}.tmp", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    let sibling = path.with_file_name(name);
    let written = fs::File::create(&sibling)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&sibling, path));
    written.map_err(|source| {
        // The first failure is what the caller must hear; a leftover sibling is only litter.
        let _ = fs::remove_file(&sibling);
        failed(source)
    })
}
