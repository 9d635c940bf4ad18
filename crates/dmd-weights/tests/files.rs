//! Model files: what is written is read back, and what is wrong is said.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig};
use burn::tensor::Device;
use dmd_weights::{
    Dtype, Error, KeyMap, Precision, load, mean, read, read_json, save, tensors, weight_file, write,
};
use proptest::prelude::*;

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

/// The mean of a file and of another in half precision, value by value; files of other networks are refused whole.
#[test]
fn mean_of_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (a, b) = (net(4), net(4));
    save(&a, &path("a.safetensors"), &KEYS, Precision::Single).unwrap();
    save(&b, &path("b.safetensors"), &KEYS, Precision::Half).unwrap();
    let files = [read(&path("a.safetensors")).unwrap(), read(&path("b.safetensors")).unwrap()];
    let averaged = mean(&files).unwrap();
    write(&path("mean.safetensors"), &averaged, Precision::Single).unwrap();
    let loaded = load(net(4), &read(&path("mean.safetensors")).unwrap(), &KEYS).unwrap();
    let (a, b, m) = (tensors(&a, &KEYS), tensors(&b, &KEYS), tensors(&loaded, &KEYS));
    for ((a, b), m) in a.iter().zip(&b).zip(&m) {
        for ((a, b), m) in a.2.iter().zip(&b.2).zip(&m.2) {
            // b is rounded to 11 bits, which its half of the mean keeps.
            assert!((m - (a + b) / 2.0).abs() <= b.abs() / 4096.0 + 1e-7, "{m} of {a} and {b}");
        }
    }

    save(&net(6), &path("wide.safetensors"), &KEYS, Precision::Single).unwrap();
    let files = [read(&path("a.safetensors")).unwrap(), read(&path("wide.safetensors")).unwrap()];
    let Err(Error::Mismatch { mismatch, path: named }) = mean(&files) else { panic!("a mismatch") };
    assert!(named.ends_with("wide.safetensors"));
    assert_eq!((mismatch.misshapen.len(), mismatch.missing.len(), mismatch.unused.len()), (5, 0, 0));
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

fn write_tensors(path: &Path, tensors: &[(&str, Vec<usize>, Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|t| t.2.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        let view = safetensors::tensor::TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (*name, view)
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A model in shards is the model, and an index leads nowhere but to its own folder.
#[test]
fn shards_are_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let net = net(4);
    let all = tensors(&net, &KEYS);
    let (first, second) = all.split_at(2);
    for (name, part) in [("m-00001-of-00002.safetensors", first), ("m-00002-of-00002.safetensors", second)] {
        let part: Vec<_> = part.iter().map(|(n, s, v)| (n.as_str(), s.clone(), v.clone())).collect();
        write_tensors(&at(name), &part);
    }
    let index = |shard_of: &dyn Fn(usize) -> String| {
        let map: serde_json::Map<_, _> =
            all.iter().enumerate().map(|(i, t)| (t.0.clone(), shard_of(i).into())).collect();
        fs::write(at("m.safetensors.index.json"), serde_json::json!({ "weight_map": map }).to_string())
            .unwrap();
    };
    index(&|i| format!("m-0000{}-of-00002.safetensors", if i < 2 { 1 } else { 2 }));
    let path = weight_file(folder.path(), &["m"]).unwrap();
    assert!(path.ends_with("m.safetensors.index.json"));
    let loaded = load(self::net(4), &read(&path).unwrap(), &KEYS).unwrap();
    assert_eq!(tensors(&loaded, &KEYS), all);

    let refused = |shard: &str| {
        index(&|_| shard.to_owned());
        read(&path).unwrap_err().to_string()
    };
    for outside in
        ["../m.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "..\\m.safetensors", "m.bin"]
    {
        let message = refused(outside);
        assert!(message.contains("not the name of a safetensors file beside it"), "{outside}: {message}");
    }
    assert!(refused("m-00003-of-00003.safetensors").contains("is missing"));
    // A shard without the tensor that the index says it has.
    assert!(refused("m-00001-of-00002.safetensors").contains("is not in"));
}

/// A variant stands in where there is no full precision, f16 before bf16, and the other way round never.
#[test]
fn variants_by_file_name() {
    let folder = tempfile::tempdir().unwrap();
    let name = |path: std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    fs::write(folder.path().join("m.non_ema.safetensors"), "").unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    let said = weight_file(folder.path(), &["m"]).unwrap_err().to_string();
    assert!(said.contains("m.safetensors") && said.contains("\"m.non_ema.safetensors\""), "{said}");
    for (file, precision) in [
        ("m.bf16.safetensors", Precision::Brain),
        ("m.fp16.safetensors", Precision::Half),
        ("m.safetensors", Precision::Single),
    ] {
        save(&net(4), &folder.path().join(file), &KEYS, precision).unwrap();
        assert_eq!(name(weight_file(folder.path(), &["m"]).unwrap()), file);
        load(net(4), &read(&folder.path().join(file)).unwrap(), &KEYS).unwrap();
    }
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

/// Older names are today's, and a name that is nearly right is suggested.
#[test]
fn older_and_misspelt_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let net = net(4);
    save(
        &net,
        &path,
        &KeyMap { renames: &[("first", "outer.0"), ("norm", "old_norm")], ..KEYS },
        Precision::Single,
    )
    .unwrap();
    let loaded = load(self::net(4), &read(&path).unwrap(), &KEYS).unwrap();
    assert_eq!(tensors(&loaded, &KEYS), tensors(&net, &KEYS));

    save(
        &net,
        &path,
        &KeyMap { renames: &[("first", "outer.0"), ("layers", "layrs")], ..KEYS },
        Precision::Single,
    )
    .unwrap();
    let message = load(self::net(4), &read(&path).unwrap(), &KEYS).unwrap_err().to_string();
    assert!(message.contains("net.layers.0.weight (is it net.layrs.0.weight?)"), "{message}");
}

/// A matrix that is no multiple of a tile in either direction arrives transposed, value by value.
#[test]
fn linear_weights_are_transposed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let values: Vec<f32> = (0..37 * 70).map(|i| i as f32).collect();
    write_tensors(&path, &[("weight", vec![37, 70], values.clone())]);
    let linear = LinearConfig::new(70, 37).with_bias(false).init(&Device::flex());
    let keys = KeyMap { prefix: "", renames: &[], aliases: &[] };
    let linear = load(linear, &read(&path).unwrap(), &keys).unwrap();
    let found: Vec<f32> = linear.weight.val().into_data().iter::<f32>().collect();
    for (i, value) in found.iter().enumerate() {
        assert_eq!(*value, values[(i % 37) * 70 + i / 37]);
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
