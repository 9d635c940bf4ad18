//! Headers of files: none is trusted.

use std::fs;
use std::path::Path;

use dmd_weights::{Error, Precision, load, read, write};
use proptest::prelude::*;

use crate::{KEYS, named, net, of};

fn header(path: &Path, text: &str, data: usize) {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    fs::write(path, bytes).unwrap();
}

/// Headers that lie: products that overflow, in whatever order the axes are, names given twice, names of control
/// characters. An error or tensors that can be read and refused by name, and never a panic.
#[test]
fn headers_that_lie() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let entry = |name: &str, shape: &str, end: usize| {
        format!("{{\"{name}\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[0,{end}]}}}}")
    };
    for shape in [
        "[4294967296,4294967296]",
        "[4294967296,4294967296,0]",
        "[9223372036854775807,3]",
        "[18446744073709551615]",
        "[-1]",
        "[1e3]",
    ] {
        header(&path, &entry("a", shape, 0), 0);
        assert!(read(&path).is_err(), "{shape}");
    }
    for shape in ["[0,4294967296,4294967296]", "[0]", "[3,0,5]"] {
        header(&path, &entry("linear.weight", shape, 0), 0);
        let file = read(&path).unwrap();
        assert_eq!(file.floats("linear.weight").unwrap(), [0.0; 0]);
        let Err(Error::Mismatch { mismatch, .. }) = load(net(), &file, &KEYS) else { panic!("filled") };
        assert_eq!(mismatch.misshapen.len(), 1);
    }
    header(&path, &entry("\\u0000\\u001b[31m\\n", "[2]", 8), 8);
    let said = load(net(), &read(&path).unwrap(), &KEYS).unwrap_err().to_string();
    assert!(said.contains("1 unused") && !said.contains('\u{1b}'), "{said:?}");
    let twice = entry("a", "[2]", 8);
    let twice = format!("{{{0},{0}}}", &twice[1..twice.len() - 1]);
    header(&path, &twice, 8);
    let _ = read(&path).map(|file| file.floats("a").unwrap());
}

proptest! {
    /// Any header that is JSON: an error, or tensors that can all be read, and not more than the file holds.
    #[test]
    fn no_header_is_trusted(
        entries in prop::collection::vec((
            "(a|b|\\PC|\\\\u000[0-9])",
            prop::sample::select(vec!["F32", "F16", "BF16", "I64", "F8_E4M3", "BOOL", "F4", "X"]),
            prop::collection::vec(prop_oneof![0..4_usize, Just(1 << 32), Just(usize::MAX)], 0..4),
            0..40_usize, 0..40_usize,
        ), 0..4),
        data in 0..64_usize,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let entries = entries.into_iter().map(|(name, dtype, shape, from, to)| format!(
            "\"{}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{from},{to}]}}",
            name.replace('"', ""),
        ));
        header(&path, &format!("{{{}}}", entries.collect::<Vec<_>>().join(",")), data);
        if let Ok(file) = read(&path) {
            let total: usize = file.entries().values().map(|entry| entry.byte_len()).sum();
            prop_assert!(total <= data);
            for name in file.entries().keys() {
                let _ = (file.floats(name), file.integers(name));
            }
            let _ = load(net(), &file, &KEYS).unwrap_err().to_string();
            let _ = write(&path.with_extension("copy"), &file, Precision::Half);
        }
    }

    /// Writing and reading keeps every tensor, of whatever shape.
    #[test]
    fn written_is_read(shapes in prop::collection::btree_map("[a-z.\\PC]{0,8}", prop::collection::vec(0..4_usize, 0..5), 0..6)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let shapes = shapes.into_iter().filter(|(name, _)| name != "__metadata__");
        let all: Vec<_> = shapes.map(|(name, shape)| named(&name, &shape, |i| i as f32 - 1.5)).collect();
        write(&path, &of(all.clone()), Precision::Single).unwrap();
        let file = read(&path).unwrap();
        prop_assert_eq!(file.entries().len(), all.len());
        for (name, shape, values) in all {
            prop_assert_eq!(&file.entries()[&name].shape, &shape);
            prop_assert_eq!(file.floats(&name).unwrap(), values);
        }
    }
}
