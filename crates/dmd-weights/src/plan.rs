//! Finds the tensor that fills each parameter, by name, and reports everything that does not fit.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use burn::module::Module;

use crate::parameters::{Parameter, parameters};
use crate::{Error, KeyMap, Mismatch, Misshapen, Tensors};

/// A tensor that fills a parameter.
pub(crate) struct Wanted {
    /// The parameter's path in the module.
    pub(crate) path: String,
    /// The tensor's name in the file.
    pub(crate) stored: String,
    /// The shape in which the file's values are read. It lacks the 1×1 kernel of a convolution that is a linear layer
    /// in this module.
    pub(crate) shape: Vec<usize>,
}

/// Compares a module's parameters with a file's tensors by name and shape; reads no value.
///
/// # Errors
///
/// [`Error::Mismatch`] as [`load`](crate::load).
pub fn check<M: Module>(module: &M, file: &Tensors, keys: &KeyMap) -> Result<(), Error> {
    plan(module, file, keys, None).map(|_| ())
}

/// The tensors that fill a module's parameters, in the order of the parameters. With `only`, the tensors of these
/// names; differences of other tensors are then ignored.
pub(crate) fn plan<M: Module>(
    module: &M,
    file: &Tensors,
    keys: &KeyMap,
    only: Option<&BTreeSet<String>>,
) -> Result<VecDeque<Wanted>, Error> {
    let concerns = |stored: &str| only.is_none_or(|only| only.contains(stored));
    let parameters = parameters(module);
    let mut mismatch = Mismatch::default();
    let mut found: BTreeMap<String, &str> = BTreeMap::new();
    // `position_ids` is a table 0, 1, 2, .. in older CLIP files.
    for stored in file.entries().keys().filter(|name| !name.ends_with("position_ids")) {
        match found.entry(keys.canonical(stored)) {
            Entry::Occupied(_) => mismatch.unused.push(stored.clone()),
            Entry::Vacant(place) => {
                place.insert(stored);
            }
        }
    }
    let bare = KeyMap { prefix: "", ..*keys };
    let names: Vec<String> = parameters.iter().map(|parameter| bare.key(&parameter.path)).collect();
    let prefix = fitting_prefix(&found, &names, keys.prefix);
    let mut wanted = VecDeque::with_capacity(parameters.len());
    for (parameter, bare) in parameters.into_iter().zip(names) {
        let name = format!("{prefix}{bare}");
        let Some(stored) = found.remove(&name).filter(|_| parameter.float) else {
            if only.is_none() {
                mismatch.missing.push(name);
            }
            continue;
        };
        if !concerns(stored) {
            continue;
        }
        match shape(&parameter, file, stored) {
            Ok(shape) => {
                let Parameter { path, .. } = parameter;
                wanted.push_back(Wanted { path, stored: stored.to_owned(), shape });
            }
            Err(found) => {
                mismatch.misshapen.push(Misshapen { name, expected: parameter.shape, found });
            }
        }
    }
    mismatch.unused.retain(|stored| concerns(stored));
    mismatch.unused.extend(found.into_values().filter(|stored| concerns(stored)).map(str::to_owned));
    match mismatch.is_empty() {
        true => Ok(wanted),
        false => Err(Error::Mismatch { path: file.path().to_owned(), mismatch }),
    }
}

/// The prefix of all names in the file. The candidates are the prefixes that all of its names have in common (such as a
/// wrapper's `module.` or `_orig_mod.`), the usual prefix of this network, and no prefix. The result is the candidate
/// with which the most names are found.
fn fitting_prefix(found: &BTreeMap<String, &str>, names: &[String], usual: &str) -> String {
    let common = common_prefix(found.keys());
    let mut candidates: Vec<&str> =
        common.match_indices('.').map(|(dot, _)| &common[..=dot]).chain(["", usual]).collect();
    // Some exporters leave the usual prefix out. The last of several equally good candidates is taken, so the empty
    // prefix comes last.
    if !found.keys().any(|name| name.starts_with(usual)) {
        candidates.push("");
    }
    let hits =
        |prefix: &str| names.iter().filter(|name| found.contains_key(&format!("{prefix}{name}"))).count();
    candidates.into_iter().max_by_key(|prefix| hits(prefix)).unwrap_or("").to_owned()
}

/// The longest prefix that all names share.
pub(crate) fn common_prefix<'a>(mut names: impl Iterator<Item = &'a String>) -> &'a str {
    let Some(first) = names.next() else { return "" };
    names.fold(first.as_str(), |common, name| {
        let same = common.char_indices().zip(name.chars()).find(|((_, a), b)| a != b);
        let shorter = common.len().min(name.len());
        &common[..same.map_or(shorter, |((at, _), _)| at)]
    })
}

/// The shape in which the parameter reads the tensor. If the tensor does not fit, the error is its shape in the file.
fn shape(parameter: &Parameter, file: &Tensors, stored: &str) -> Result<Vec<usize>, Vec<usize>> {
    let found = file.entries().get(stored).map(|entry| entry.shape.clone()).unwrap_or_default();
    // A 1×1 convolution and a linear layer hold the same numbers. Older VAE files have a convolution where newer ones
    // have a linear layer.
    let trimmed = match found.as_slice() {
        [out, input, 1, 1] if parameter.shape.len() == 2 => vec![*out, *input],
        _ => found.clone(),
    };
    if trimmed == parameter.shape { Ok(trimmed) } else { Err(found) }
}
