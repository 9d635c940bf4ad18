//! Names of files and of the tensors in them: shards, variants, older spellings, and differences.

use std::fs;

use dmd_weights::{Error, KeyMap, Precision, load, read, save, tensors, weight_file};

use crate::{KEYS, net, write_tensors};

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
    let loaded = load(crate::net(4), &read(&path).unwrap(), &KEYS).unwrap();
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
    let loaded = load(crate::net(4), &read(&path).unwrap(), &KEYS).unwrap();
    assert_eq!(tensors(&loaded, &KEYS), tensors(&net, &KEYS));

    save(
        &net,
        &path,
        &KeyMap { renames: &[("first", "outer.0"), ("layers", "layrs")], ..KEYS },
        Precision::Single,
    )
    .unwrap();
    let message = load(crate::net(4), &read(&path).unwrap(), &KEYS).unwrap_err().to_string();
    assert!(message.contains("net.layers.0.weight (is it net.layrs.0.weight?)"), "{message}");
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
