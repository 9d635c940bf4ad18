use crate::{Error, Mismatch, Misshapen, NamedTensor, TensorFile};

/// The mean of the weights of several checkpoints of one network, in f32 ("model soups", Wortsman et al. 2022): where
/// they come from one training, or were trained on from common weights, it is often better than each.
///
/// # Errors
///
/// [`Error::Mismatch`] naming every tensor that a file has and the first has not, or the other way round;
/// [`Error::DataType`] as [`TensorFile::floats`].
///
/// # Panics
///
/// If there is no file.
pub fn mean(files: &[TensorFile]) -> Result<Vec<NamedTensor>, Error> {
    let (first, others) = files.split_first().expect("at least one file");
    for file in others {
        same_tensors(first, file)?;
    }
    let share = 1.0 / files.len() as f32;
    let mut tensors = Vec::with_capacity(first.entries().len());
    for (name, entry) in first.entries() {
        let mut sum = vec![0.0; entry.len()];
        for file in files {
            sum.iter_mut().zip(file.floats(name)?).for_each(|(sum, value)| *sum += value);
        }
        sum.iter_mut().for_each(|value| *value *= share);
        tensors.push((name.clone(), entry.shape.clone(), sum));
    }
    Ok(tensors)
}

fn same_tensors(first: &TensorFile, file: &TensorFile) -> Result<(), Error> {
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
