//! Sharded models, whose index says which file holds which tensor.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::embedded::is_file;
use crate::{Error, read_json};

/// The contents of a `*.safetensors.index.json`.
#[derive(Debug, Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads an index: its shards, each with the tensors that it should hold. A shard must be a plain file name in the
/// folder of the index, so that an index cannot name files outside that folder.
pub(crate) fn read_index(path: &Path) -> Result<Vec<(PathBuf, Vec<String>)>, Error> {
    let index: Index = read_json(path)?;
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, shard) in index.weight_map {
        shards.entry(shard).or_default().push(tensor);
    }
    let invalid = |reason: String| Error::Index { path: path.to_owned(), reason };
    if shards.is_empty() {
        return Err(invalid("it names no shard".to_owned()));
    }
    let mut found = Vec::with_capacity(shards.len());
    for (shard, tensors) in shards {
        let plain = Path::new(&shard).file_name() == Some(OsStr::new(&shard)) && !shard.contains('\\');
        if !plain || !shard.ends_with(".safetensors") {
            return Err(invalid(format!("shard {shard:?} is not the name of a safetensors file beside it")));
        }
        let file = path.with_file_name(&shard);
        if !is_file(&file) {
            return Err(invalid(format!("shard {shard:?} is missing; fetch it again")));
        }
        found.push((file, tensors));
    }
    Ok(found)
}
