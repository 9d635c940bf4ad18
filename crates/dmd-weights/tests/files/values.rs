//! The values of files: kept, rounded, averaged, transposed.

use burn::nn::LinearConfig;
use burn::tensor::Device;
use dmd_weights::{Error, KeyMap, Precision, load, mean, read, save, tensors, write};

use crate::{KEYS, net, write_tensors};

#[test]
fn saving_and_loading_is_the_identity() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/er/weights.safetensors");
    let net = net(4);
    save(&net, &path, &KEYS, Precision::Single).unwrap();
    let loaded = load(crate::net(4), &read(&path).unwrap(), &KEYS).unwrap();
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
    let loaded = load(crate::net(4), &read(&path).unwrap(), &KEYS).unwrap();
    for (a, b) in tensors(&net, &KEYS).iter().zip(tensors(&loaded, &KEYS)) {
        for (a, b) in a.2.iter().zip(b.2) {
            assert!((a - b).abs() <= a.abs() / 2048.0 + 1e-7);
        }
    }
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
