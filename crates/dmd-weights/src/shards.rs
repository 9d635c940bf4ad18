//! Sharded models: an index that says which file holds which tensor.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::embedded::is_file;
use crate::{Error, read_json};

/// `*.safetensors.index.json`.
#[derive(Debug, Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The shards of an index, each with the tensors it is said to hold. A shard is a plain file name:
/// it lies beside its index, and nothing in an index leads out of the folder.
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
