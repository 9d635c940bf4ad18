//! Model files: what is written is read back, and what is wrong is said.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig};
use burn::tensor::Device;
use dmd_weights::{
    Error, KeyMap, Precision, load, read, read_json, save, tensors, weight_file, write_atomic,
};

#[derive(Module, Debug)]
struct Net {
    first: Linear,
    norm: GroupNorm,
    layers: Vec<Linear>,
}

fn net(width: usize) -> Net {
    let device = Device::flex();
    Net {
        first: LinearConfig::new(3, width).init(&device),
        norm: GroupNormConfig::new(2, width).init(&device),
        layers: vec![LinearConfig::new(width, 2).with_bias(false).init(&device)],
    }
}

const KEYS: KeyMap =
    KeyMap { prefix: "net.", renames: &[("first", "outer.0")], aliases: &[("old_norm", "norm")] };

#[test]
fn saving_and_loading_is_the_identity() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/er/weights.safetensors");
    let net = net(4);
    save(&net, &path, &KEYS, Precision::Single).unwrap();
    let loaded = load(self::net(4), &read(&path).unwrap(), &KEYS).unwrap();
    assert_eq!(tensors(&net, &KEYS), tensors(&loaded, &KEYS));
    let names: Vec<String> = tensors(&net, &KEYS).into_iter().map(|t| t.0).collect();
    let expected =
        ["net.outer.0.weight", "net.outer.0.bias", "net.norm.weight", "net.norm.bias", "net.layers.0.weight"];
    assert_eq!(names, expected);
    // PyTorch's layout: [out, in].
    assert_eq!(tensors(&net, &KEYS)[0].1, [4, 3]);
}

/// Half precision keeps 11 bits: relative error at most 2⁻¹¹.
#[test]
fn half_precision_rounds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.safetensors");
    let net = net(4);
    save(&net, &path, &KEYS, Precision::Half).unwrap();
    let loaded = load(self::net(4), &read(&path).unwrap(), &KEYS).unwrap();
    for (a, b) in tensors(&net, &KEYS).iter().zip(tensors(&loaded, &KEYS)) {
        for (a, b) in a.2.iter().zip(b.2) {
            assert!((a - b).abs() <= a.abs() / 2048.0 + 1e-7);
        }
    }
}

#[test]
fn every_difference_is_reported_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.safetensors");
    save(&net(6), &path, &KeyMap { renames: &[("norm", "other")], ..KEYS }, Precision::Single).unwrap();
    let Err(Error::Mismatch { mismatch, .. }) = load(net(4), &read(&path).unwrap(), &KEYS) else {
        panic!("a mismatch");
    };
    assert_eq!(
        mismatch.missing,
        ["net.outer.0.weight", "net.outer.0.bias", "net.norm.weight", "net.norm.bias"]
    );
    assert_eq!(mismatch.unused, ["net.first.bias", "net.first.weight", "net.other.bias", "net.other.weight"]);
    assert_eq!(mismatch.misshapen.len(), 1);
    assert_eq!(mismatch.misshapen[0].expected, [2, 4]);
    assert_eq!(mismatch.misshapen[0].found, [2, 6]);
}

/// A file without the prefix is read too, as transformers 5 writes CLIP.
#[test]
fn a_missing_prefix_is_forgiven() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bare.safetensors");
    save(&net(4), &path, &KeyMap { prefix: "", ..KEYS }, Precision::Single).unwrap();
    load(net(4), &read(&path).unwrap(), &KEYS).unwrap();
}

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

/// Writing where nothing can be written leaves neither the file nor a sibling, and the old content.
#[test]
fn a_failed_write_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("file");
    fs::write(&blocked, "old").unwrap();
    let error = write_atomic(&blocked.join("below"), b"new").unwrap_err();
    assert!(matches!(error, Error::Write { .. }), "{error}");
    // A folder stands where the file should go: the rename fails after the sibling was written.
    fs::create_dir(folder.path().join("taken")).unwrap();
    fs::write(folder.path().join("taken/inside"), "kept").unwrap();
    assert!(write_atomic(&folder.path().join("taken"), b"new").is_err());
    let mut left: Vec<String> =
        fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["file", "taken"]);
    write_atomic(&blocked, b"new").unwrap();
    assert_eq!(fs::read_to_string(&blocked).unwrap(), "new");
}

/// `/dev/full` is the system's full disk.
#[test]
fn a_full_disk_is_an_error() {
    let full = Path::new("/dev/full");
    if !full.exists() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let error = fs::write(full, vec![0; 1 << 16]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let shown = Error::Write { path: folder.path().join("x"), source: error }.to_string();
    assert!(shown.contains("cannot write") && shown.contains('x'), "{shown}");
}
