use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::repository::is_hash;

/// A file of a repository, as the hub lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The file's path in the repository, with `/` between folders.
    pub path: String,
    /// The file's length in bytes.
    pub size: u64,
    /// The hash of the content. It is unknown if the list was made from a folder of the cache instead of the hub's
    /// answer.
    pub(crate) digest: Option<Digest>,
}

impl Entry {
    /// Makes an entry without a hash, for a list from which files are only selected. Such an entry cannot be fetched.
    pub fn new(path: impl Into<String>, size: u64) -> Self {
        Self { path: path.into(), size, digest: None }
    }
}

/// The files of a repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listing {
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
    /// The files, ordered by path.
    pub entries: Vec<Entry>,
}

/// The hash of a file's content, which is also the name of the content in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Digest {
    /// SHA-256 of the content, for a large file.
    Sha256(String),
    /// SHA-1 of a header and the content, which is git's name for a blob, for a small file.
    Git(String),
}

impl Digest {
    pub(crate) fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::Git(hex) => hex,
        }
    }
}

/// One element of the hub's answer.
#[derive(Deserialize)]
struct Node {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// Parses one page of the hub's answer, and returns the files on it.
pub(crate) fn page(json: &str) -> Result<Vec<Entry>, String> {
    let nodes: Vec<Node> =
        serde_json::from_str(json).map_err(|error| format!("its list of files is broken ({error})"))?;
    nodes
        .into_iter()
        .filter(|node| node.kind == "file")
        .map(|node| entry(node.path, node.size, node.oid, node.lfs.map(|lfs| (lfs.oid, lfs.size))))
        .collect()
}

fn entry(path: String, size: u64, git: String, lfs: Option<(String, u64)>) -> Result<Entry, String> {
    let (digest, size) = match lfs {
        Some((hex, size)) => {
            // Git's own listings write the kind of hash before it.
            (Digest::Sha256(hex.strip_prefix("sha256:").map(str::to_owned).unwrap_or(hex)), size)
        }
        None => (Digest::Git(git), size),
    };
    let digits = if matches!(digest, Digest::Sha256(_)) { 64 } else { 40 };
    if !is_hash(digest.hex(), digits) {
        return Err(format!("it lists {path:?} with the hash {:?}", digest.hex()));
    }
    Ok(Entry { path, size, digest: Some(digest) })
}

/// A listing in the format in which `huggingface_hub` keeps it.
#[derive(Serialize, Deserialize)]
struct Stored {
    format_version: u32,
    files: BTreeMap<String, StoredFile>,
}

#[derive(Serialize, Deserialize)]
struct StoredFile {
    size: u64,
    blob_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lfs_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lfs_size: Option<u64>,
}

/// The text of a listing's file in the cache.
pub(crate) fn store(entries: &[Entry]) -> String {
    let file = |entry: &Entry| {
        let large = matches!(entry.digest, Some(Digest::Sha256(_)));
        let hex = entry.digest.as_ref().map(|digest| digest.hex().to_owned()).unwrap_or_default();
        let (blob_id, lfs_sha256) = if large { (String::new(), Some(hex)) } else { (hex, None) };
        (
            entry.path.clone(),
            StoredFile { size: entry.size, blob_id, lfs_sha256, lfs_size: large.then_some(entry.size) },
        )
    };
    let stored = Stored { format_version: 1, files: entries.iter().map(file).collect() };
    serde_json::to_string_pretty(&stored).unwrap_or_default()
}

/// Parses a listing's file in the cache. Returns `None` if the file has another format.
pub(crate) fn stored(json: &str) -> Option<Vec<Entry>> {
    let stored: Stored = serde_json::from_str(json).ok()?;
    if stored.format_version != 1 {
        return None;
    }
    let file = |(path, file): (String, StoredFile)| {
        let lfs = file.lfs_sha256.map(|hex| (hex, file.lfs_size.unwrap_or(file.size)));
        entry(path, file.size, file.blob_id, lfs).ok()
    };
    stored.files.into_iter().map(file).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const SMALL: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_page_of_the_hub_is_read() {
        let large = "a".repeat(64);
        let json = format!(
            r#"[{{"type":"directory","oid":"{SMALL}","size":0,"path":"unet"}},
                {{"type":"file","oid":"{SMALL}","size":12,"path":"unet/config.json"}},
                {{"type":"file","oid":"{SMALL}","size":1064,"path":"m.safetensors","xetHash":"x",
                  "lfs":{{"oid":"{large}","size":1064,"pointerSize":134}}}}]"#
        );
        let entries = page(&json).unwrap();
        assert_eq!(entries[0].digest, Some(Digest::Git(SMALL.to_owned())));
        assert_eq!(entries[1].digest, Some(Digest::Sha256(large)));
        assert_eq!(entries[1].size, 1064);
        assert_eq!(stored(&store(&entries)).unwrap(), [entries[1].clone(), entries[0].clone()]);
    }

    #[test]
    fn a_hash_that_could_be_a_path_is_refused() {
        for oid in ["", "../../x", "0123", &SMALL.to_uppercase()] {
            let json = format!(r#"[{{"type":"file","oid":"{oid}","size":1,"path":"x"}}]"#);
            assert!(page(&json).unwrap_err().contains("hash"), "{oid}");
        }
        assert!(page(r#"[{"type":"file","path":"x","#).unwrap_err().contains("broken"));
        assert!(page(r#"{"error":"no"}"#).is_err());
        let python = format!(r#"{{"format_version":1,"files":{{"x":{{"size":1,"blob_id":"{SMALL}"}}}}}}"#);
        assert_eq!(stored(&python).unwrap()[0].path, "x");
        assert!(stored(&python.replace(SMALL, "../x")).is_none());
        assert!(stored(&python.replace(":1,\"files", ":2,\"files")).is_none());
    }
}
