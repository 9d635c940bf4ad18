//! Merged and written tensors.

use std::fs;

use dmd_weights::{Dtype, Error, Lora, Precision, Update, read, write};
use safetensors::tensor::TensorView;

use crate::{named, of};

/// W + scale · alpha / rank · up · down by its definition, for linear layers, convolutions, a 1×1 convolution with a
/// linear update, and two updates of one weight.
#[test]
fn merging_is_the_formula() {
    let wave = |phase: usize| move |i: usize| ((i * 7 + phase) as f32 * 0.37).sin();
    let base = [
        named("linear", &[4, 5], wave(0)),
        named("conv", &[2, 3, 3, 3], wave(1)),
        named("pointwise", &[4, 3, 1, 1], wave(2)),
        named("untouched", &[2], wave(3)),
    ];
    let matrices = [
        named("linear.down", &[2, 5], wave(4)),
        named("linear.up", &[4, 2], wave(5)),
        named("conv.down", &[2, 3, 3, 3], wave(6)),
        named("conv.up", &[2, 2, 1, 1], wave(7)),
        named("pointwise.down", &[1, 3], wave(8)),
        named("pointwise.up", &[4, 1], wave(9)),
    ];
    let update = |target: &str, alpha| Update {
        target: target.to_owned(),
        down: format!("{target}.down"),
        up: format!("{target}.up"),
        alpha,
    };
    let updates = vec![update("linear", Some(1.0)), update("conv", None), update("pointwise", Some(3.0))];
    let lora = Lora { tensors: of(matrices.clone()), updates };
    let merged = of(base.clone()).merged(&lora, 0.5).unwrap();
    let twice = merged.clone().merged(&lora, 0.25).unwrap();
    let value = |name: String| matrices.iter().find(|m| m.0 == name).unwrap();
    for (name, _, before) in &base {
        let alpha = lora.updates.iter().find(|update| update.target == *name);
        let Some(update) = alpha else {
            assert_eq!(merged.floats(name).unwrap(), *before);
            continue;
        };
        let (down, up) = (value(format!("{name}.down")), value(format!("{name}.up")));
        let (rank, outputs) = (down.1[0], up.1[0]);
        let inputs = down.2.len() / rank;
        for (tensors, scale) in [(&merged, 0.5), (&twice, 0.75)] {
            let after = tensors.floats(name).unwrap();
            for (i, after) in after.iter().enumerate() {
                let (row, column) = (i / inputs, i % inputs);
                let product = |k| f64::from(up.2[row * rank + k]) * f64::from(down.2[k * inputs + column]);
                let product: f64 = (0..rank).map(product).sum();
                let alpha = update.alpha.unwrap_or(rank as f64);
                let expected = f64::from(before[i]) + scale * alpha / rank as f64 * product;
                // A few roundings of numbers below 4.
                assert!((f64::from(*after) - expected).abs() < 2e-6, "{name} {i}: {after}, {expected}");
            }
            assert_eq!(after.len(), outputs * inputs);
        }
    }
    // What does not fit is named, all of it.
    let mut wrong = lora.clone();
    wrong.updates.push(update("nowhere", None));
    wrong.updates.push(Update { up: "absent".to_owned(), ..update("conv", None) });
    wrong.updates.push(Update { up: "pointwise.up".to_owned(), ..update("linear", None) });
    let Err(Error::Mismatch { mismatch, .. }) = of(base).merged(&wrong, 1.0) else { panic!("merged") };
    assert_eq!((mismatch.missing, mismatch.unused), (vec!["absent".into()], vec!["nowhere".into()]));
    assert_eq!(
        (mismatch.misshapen[0].expected.as_slice(), mismatch.misshapen[0].found.as_slice()),
        (&[4, 2][..], &[4, 1][..])
    );
}

/// A value beyond a type's range is an error with the tensor's name, and the old file stays; what was infinite stays so.
#[test]
fn an_export_that_overflows_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let with = |value: f32| {
        of([named("fits", &[2], |_| 1.0), named("large", &[3], move |i| if i == 1 { value } else { 0.0 })])
    };
    write(&path, &with(65504.0), Precision::Half).unwrap();
    let before = fs::read(&path).unwrap();
    for (value, precision) in
        [(65520.0, Precision::Half), (-1e6, Precision::Half), (f32::MAX, Precision::Brain)]
    {
        let Err(Error::Overflow { name, value: named, .. }) = write(&path, &with(value), precision) else {
            panic!("{value} was written as {precision:?}");
        };
        assert_eq!((name.as_str(), named), ("large", value));
        assert_eq!(fs::read(&path).unwrap(), before);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    write(&path, &with(f32::INFINITY), Precision::Half).unwrap();
    write(&path, &with(1e30), Precision::Brain).unwrap();
    // bf16 keeps 8 bits.
    assert!((read(&path).unwrap().floats("large").unwrap()[1] / 1e30 - 1.0).abs() < 1.0 / 256.0);
    write(&path, &with(f32::MAX), Precision::Single).unwrap();
}

/// The file is what the safetensors crate makes of the same tensors, bit for bit, and other types pass through.
#[test]
fn a_written_file_is_the_crate_s() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let values = [1.5_f32, -2.0, 3.25].map(f32::to_le_bytes).concat();
    let ids = [7_i64, -8].map(i64::to_le_bytes).concat();
    let views = [
        ("b.weight", TensorView::new(Dtype::F32, vec![3], &values).unwrap()),
        ("a.ids", TensorView::new(Dtype::I64, vec![1, 2], &ids).unwrap()),
        ("a.weight", TensorView::new(Dtype::F32, vec![3, 1], &values).unwrap()),
        ("empty", TensorView::new(Dtype::F32, vec![0, 5], &[]).unwrap()),
    ];
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let expected = safetensors::serialize(views, Some(metadata)).unwrap();
    fs::write(&path, &expected).unwrap();
    let copy = folder.path().join("copy.safetensors");
    write(&copy, &read(&path).unwrap(), Precision::Single).unwrap();
    assert_eq!(fs::read(&copy).unwrap(), expected);
    assert_eq!(read(&copy).unwrap().integers("a.ids").unwrap(), [7, -8]);
    write(&copy, &read(&path).unwrap(), Precision::Half).unwrap();
    assert_eq!(read(&copy).unwrap().floats("a.weight").unwrap(), [1.5, -2.0, 3.25]);
}
