//! Files that are cut off, changed or no files of weights: one error, and never a panic.

use std::fs;

use dmd_weights::{Error, Precision, read, read_json, save, weight_file};
use proptest::prelude::*;

use crate::{KEYS, net};

#[test]
fn damaged_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    assert!(matches!(read(&path), Err(Error::Read { .. })));
    save(&net(4), &path, &KEYS, Precision::Single).unwrap();
    let whole = fs::read(&path).unwrap();
    // Cut anywhere, a file is refused and never half used.
    for keep in [0, 4, 8, 40, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..keep]).unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert!(message.contains("weights.safetensors") && message.contains("not a complete"), "{message}");
    }
    // A header that claims more than there is.
    let mut lying = whole.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&path, &lying).unwrap();
    assert!(matches!(read(&path), Err(Error::Safetensors { .. })));
    fs::write(folder.path().join("config.json"), "{ \"a\": ").unwrap();
    assert!(matches!(
        read_json::<serde_json::Value>(&folder.path().join("config.json")),
        Err(Error::Json { .. })
    ));
    let message = weight_file(folder.path(), &["model"]).unwrap_err().to_string();
    assert!(message.contains("model.safetensors"), "{message}");
}

/// An error and its causes, as the program prints them: nothing is said twice, and nothing is left out.
#[test]
fn a_cause_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("bad.json"), "{\"a\": }").unwrap();
    fs::create_dir(at("folder")).unwrap();
    let errors = [
        (read(&at("folder")).unwrap_err(), "directory"),
        (read(&at("none")).unwrap_err(), "No such file"),
        (dmd_weights::write_atomic(&at("folder"), b"").unwrap_err(), "directory"),
        (read_json::<serde_json::Value>(&at("bad.json")).unwrap_err(), "line 1 column 7"),
    ];
    for (error, cause) in errors {
        let mut said = error.to_string();
        let mut next = std::error::Error::source(&error);
        while let Some(source) = next {
            said = format!("{said}: {source}");
            next = source.source();
        }
        assert_eq!(said.matches(cause).count(), 1, "{said}");
    }
}

proptest! {
    /// Any bytes, and any change of a good file, give an error or a file whose every tensor can be
    /// read: no panic, and nothing allocated beyond the file's own size.
    #[test]
    fn no_file_is_trusted(at in 0_usize..600, bytes in prop::collection::vec(any::<u8>(), 1..24)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        save(&net(4), &path, &KEYS, Precision::Half).unwrap();
        let mut file = fs::read(&path).unwrap();
        let at = at.min(file.len());
        let end = (at + bytes.len()).min(file.len());
        file.splice(at..end, bytes);
        fs::write(&path, &file).unwrap();
        if let Ok(found) = read(&path) {
            let total: usize = found.entries().values().map(|entry| entry.byte_len()).sum();
            prop_assert!(total <= file.len());
            for name in found.entries().keys() {
                let _ = found.floats(name);
            }
        }
    }

    /// The same for what is no safetensors file at all, and for an index.
    #[test]
    fn no_bytes_are_trusted(bytes in prop::collection::vec(any::<u8>(), 0..200), name in "[a-z/.]{0,12}") {
        let folder = tempfile::tempdir().unwrap();
        for file in ["w.safetensors", "w.safetensors.index.json", "w.bin"] {
            fs::write(folder.path().join(file), &bytes).unwrap();
            let _ = read(&folder.path().join(file));
        }
        let index = serde_json::json!({ "weight_map": { "a": name } });
        let path = folder.path().join("x.safetensors.index.json");
        fs::write(&path, index.to_string()).unwrap();
        prop_assert!(read(&path).is_err());
    }
}
