use std::sync::Arc;

use safetensors::Dtype;

use crate::entry::{Entry, Source};
use crate::{Error, Mismatch, Misshapen, Tensors};

/// The mean of the weights of several checkpoints of one network, in f32 ("model soups", Wortsman et al. 2022). If the
/// checkpoints come from one training, or were trained further from the same weights, the mean is often better than
/// each of them. The mean of an empty list has no tensors. The files' values are read when a value of the mean is read,
/// so that [`crate::write`] holds one tensor at a time.
///
/// # Errors
///
/// [`Error::Mismatch`], which names the tensors that a file has and the first file does not have, or the other way
/// round. Reading a value fails as [`Tensors::floats`] does, with [`Error::DataType`].
pub fn mean(files: &[Tensors]) -> Result<Tensors, Error> {
    let Some((first, others)) = files.split_first() else { return Ok(Tensors::default()) };
    for file in others {
        same_tensors(first, file)?;
    }
    let shapes = first.entries().iter().map(|(name, entry)| (name.clone(), entry.shape.clone()));
    let shapes: Vec<_> = shapes.collect();
    let (path, bytes) = (first.path().to_owned(), first.bytes());
    let files: Arc<[Tensors]> = files.into();
    let entries = shapes.into_iter().filter_map(|(name, shape)| {
        let (files, of) = (Arc::clone(&files), name.clone());
        let values = move || mean_of(&files, &of);
        Some((name, Entry::new(Dtype::F32, shape, Source::Computed(Arc::new(values)))?))
    });
    Tensors::from_entries(path, entries, bytes)
}

fn mean_of(files: &[Tensors], name: &str) -> Result<Vec<f32>, Error> {
    let share = 1.0 / files.len() as f32;
    let mut sum: Vec<f32> = Vec::new();
    for file in files {
        let values = file.floats(name)?;
        sum.resize(values.len(), 0.0);
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
    sum.iter_mut().for_each(|value| *value *= share);
    Ok(sum)
}

fn same_tensors(first: &Tensors, file: &Tensors) -> Result<(), Error> {
    let mut mismatch = Mismatch::default();
    for (name, entry) in first.entries() {
        match file.entries().get(name) {
            None => mismatch.missing.push(name.clone()),
            Some(found) if found.shape != entry.shape => mismatch.misshapen.push(Misshapen {
                name: name.clone(),
                expected: entry.shape.clone(),
                found: found.shape.clone(),
            }),
            Some(_) => {}
        }
    }
    mismatch.unused =
        file.entries().keys().filter(|name| !first.entries().contains_key(*name)).cloned().collect();
    match mismatch.is_empty() {
        true => Ok(()),
        false => Err(Error::Mismatch { path: file.path().to_owned(), mismatch }),
    }
}
