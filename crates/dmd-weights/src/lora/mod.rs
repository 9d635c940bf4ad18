//! Low-rank updates of weights ("LoRA", Hu et al. 2021). An update is merged when its weight is read.

mod file;
mod keys;
mod load;
mod report;
mod settings;
mod spellings;
mod write;

pub use file::{LoraFile, LoraPart};
pub use load::{is_lora, load_lora};
pub use report::LoraReport;
pub use write::{LoraSpelling, save_lora};

use safetensors::Dtype;

use crate::entry::Entry;
use crate::{Error, Mismatch, Misshapen, Tensors};

/// A file of low-rank updates, and the weight that each update belongs to.
#[derive(Debug, Clone)]
pub struct Lora {
    /// The file that holds the matrices.
    pub tensors: Tensors,
    /// The updates.
    pub updates: Vec<Update>,
}

/// One low-rank update: `alpha / rank · up · down` is added to a weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Name of the weight: a linear layer's `[out, in]` or a convolution's `[out, in, height, width]`.
    pub target: String,
    /// Name of the matrix `[rank, in]` or of the convolution `[rank, in, height, width]` among [`Lora::tensors`].
    pub down: String,
    /// Name of the matrix `[out, rank]`, or of the convolution `[out, rank, 1, 1]`.
    pub up: String,
    /// The scale of the update times its rank. `None` where the file has no alpha; then the rank is used, so that the
    /// scale is 1.
    pub alpha: Option<f64>,
}

impl Tensors {
    /// Adds `scale · alpha / rank · up · down` to each target of a LoRA. The sum is computed in f32 when the target is
    /// read. A target of type F16 or BF16 is rounded once, even after several merges.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`] with the path of the LoRA's file. `missing` are matrices that the file does not have,
    /// `unused` are targets that these tensors do not have, `misshapen` are matrices that do not fit their target.
    pub fn merged(mut self, lora: &Lora, scale: f64) -> Result<Self, Error> {
        let mut mismatch = Mismatch::default();
        for update in &lora.updates {
            let Some(entry) = self.entries().get(&update.target) else {
                mismatch.unused.push(update.target.clone());
                continue;
            };
            let Some(shape) = fit(&lora.tensors, update, &entry.shape, &mut mismatch) else { continue };
            let base = Self::new(
                self.path().to_owned(),
                [(update.target.clone(), entry.clone())].into(),
                self.bytes(),
            );
            let wanted = |name: &str| name == update.down || name == update.up;
            let (matrices, update) = (lora.tensors.clone().select(wanted), update.clone());
            let factor = (scale * update.alpha.unwrap_or(shape.rank as f64) / shape.rank as f64) as f32;
            let (target, full) = (update.target.clone(), entry.shape.clone());
            let values = move || {
                let (down, up) = (matrices.floats(&update.down)?, matrices.floats(&update.up)?);
                Ok(shape.added(base.unrounded(&update.target)?, &up, &down, factor))
            };
            let dtype = match entry.dtype {
                half @ (Dtype::F16 | Dtype::BF16) => half,
                _ => Dtype::F32,
            };
            let merged = Entry::computed(dtype, full, values);
            self.entries_mut().extend(merged.map(|entry| (target, entry)));
        }
        match mismatch.is_empty() {
            true => Ok(self),
            false => Err(Error::Mismatch { path: lora.tensors.path().to_owned(), mismatch }),
        }
    }
}

/// The shape of an update as a product of matrices, `[outputs, rank] · [rank, inputs]`. For a convolution, `inputs`
/// includes height and width of the kernel.
#[derive(Debug, Clone, Copy)]
struct LowRank {
    rank: usize,
    inputs: usize,
}

impl LowRank {
    /// `base + factor · up · down`, row by row.
    fn added(self, mut base: Vec<f32>, up: &[f32], down: &[f32], factor: f32) -> Vec<f32> {
        let mut product = vec![0.0_f32; self.inputs];
        for (row, up) in base.chunks_exact_mut(self.inputs.max(1)).zip(up.chunks_exact(self.rank)) {
            product.fill(0.0);
            for (up, down) in up.iter().zip(down.chunks_exact(self.inputs)) {
                product.iter_mut().zip(down).for_each(|(sum, down)| *sum += up * down);
            }
            row.iter_mut().zip(&product).for_each(|(value, sum)| *value += factor * sum);
        }
        base
    }
}

/// Checks that an update's matrices fit a weight of shape `full`. If they do not, adds the reason to `mismatch` and
/// returns `None`.
fn fit(tensors: &Tensors, update: &Update, full: &[usize], mismatch: &mut Mismatch) -> Option<LowRank> {
    let mut shape = |name: &String| match tensors.entries().get(name) {
        Some(entry) => Some(trimmed(&entry.shape).to_vec()),
        None => {
            mismatch.missing.push(name.clone());
            None
        }
    };
    let (down, up) = (shape(&update.down), shape(&update.up));
    let (down, up) = (down?, up?);
    let weight = trimmed(full);
    let rank = down.first().copied().unwrap_or(0);
    let expected_down: Vec<usize> = [rank].iter().chain(weight.iter().skip(1)).copied().collect();
    let expected_up: Vec<usize> = weight.iter().take(1).chain([&rank]).copied().collect();
    let mut fits = rank > 0 && weight.len() >= 2;
    for (name, expected, found) in [(&update.down, expected_down, down), (&update.up, expected_up, up)] {
        if !fits || expected != found {
            fits = false;
            mismatch.misshapen.push(Misshapen { name: name.clone(), expected, found });
        }
    }
    fits.then(|| LowRank { rank, inputs: weight.iter().skip(1).product() })
}

/// The shape without the 1×1 kernel of a convolution, which a linear layer can replace.
fn trimmed(shape: &[usize]) -> &[usize] {
    match shape {
        [.., 1, 1] if shape.len() == 4 => &shape[..2],
        _ => shape,
    }
}
