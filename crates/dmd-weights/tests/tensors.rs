//! The lazy view: chosen, renamed and merged tensors, loaded by name, written as they come.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::Device;
use dmd_weights::{
    Dtype, Error, KeyMap, Lora, NamedTensor, Precision, Tensors, Update, load, read, tensors, write,
};
use proptest::prelude::*;
use safetensors::tensor::TensorView;

#[derive(Module, Debug)]
struct Net {
    linear: Linear,
    layers: Vec<Conv2d>,
}

fn net() -> Net {
    let device = Device::flex();
    let conv = Conv2dConfig::new([3, 2], [3, 3]);
    Net { linear: LinearConfig::new(5, 4).init(&device), layers: vec![conv.init(&device)] }
}

const KEYS: KeyMap = KeyMap { prefix: "", renames: &[], aliases: &[] };

fn named(name: &str, shape: &[usize], values: impl Fn(usize) -> f32) -> NamedTensor {
    (name.to_owned(), shape.to_vec(), (0..shape.iter().product()).map(values).collect())
}

fn of(tensors: impl IntoIterator<Item = NamedTensor>) -> Tensors {
    Tensors::from_values("test", tensors).unwrap()
}

fn renamed(all: &[NamedTensor], name: impl Fn(&str) -> String) -> Tensors {
    of(all.iter().map(|(n, shape, values)| (name(n), shape.clone(), values.clone())))
}

fn names(tensors: &Tensors) -> Vec<&str> {
    tensors.entries().keys().map(String::as_str).collect()
}

#[test]
fn views_choose_and_rename() {
    let all = of(["unet.a.w", "unet.b.w", "vae.a.w"].map(|name| named(name, &[2], |i| i as f32)));
    let unet = all.clone().only("unet.");
    assert_eq!(names(&unet), ["a.w", "b.w"]);
    let first = unet.renamed(|name| name.starts_with('a').then(|| format!("x.{name}"))).unwrap();
    assert_eq!(names(&first), ["x.a.w"]);
    assert_eq!(first.floats("x.a.w").unwrap(), [0.0, 1.0]);
    assert!(matches!(first.floats("a.w"), Err(Error::Index { .. })));
    // Two tensors of one name would be one tensor lost.
    let Err(Error::Index { reason, .. }) = all.renamed(|_| Some("same".to_owned())) else { panic!("a loss") };
    assert!(reason.contains("\"same\""), "{reason}");
    for wrong in [vec![named("a", &[2], |_| 0.0); 2], vec![("a".to_owned(), vec![3], vec![0.0; 2])]] {
        assert!(matches!(Tensors::from_values("test", wrong), Err(Error::Index { .. })));
    }
    let overflows = vec![("a".to_owned(), vec![usize::MAX, 2], vec![])];
    assert!(matches!(Tensors::from_values("test", overflows), Err(Error::Index { .. })));
}

/// Case 15: state dicts saved from inside a wrapper. All names have the same beginning, and fit without it.
#[test]
fn a_wrapper_s_prefix_is_taken_off() {
    let net = net();
    let all = tensors(&net, &KEYS);
    let usual = KeyMap { prefix: "text_model.", ..KEYS };
    for prefix in ["", "_orig_mod.", "module._orig_mod.", "model.diffusion_model.", "linear.", "text_model."]
    {
        for (keys, inner) in [(&KEYS, ""), (&usual, "text_model."), (&usual, "")] {
            let file = renamed(&all, |name| format!("{prefix}{inner}{name}"));
            let loaded = load(self::net(), &file, keys).unwrap();
            assert_eq!(tensors(&loaded, &KEYS), all, "{prefix}{inner}");
        }
    }
    // One that not all names have belongs to another network.
    let file =
        renamed(
            &all,
            |name| {
                if name.starts_with("linear") { format!("module.{name}") } else { name.to_owned() }
            },
        );
    let Err(Error::Mismatch { mismatch, .. }) = load(self::net(), &file, &KEYS) else { panic!("filled") };
    assert_eq!(mismatch.unused, ["module.linear.bias", "module.linear.weight"]);
    assert_eq!(mismatch.missing, ["linear.weight", "linear.bias"]);
    // Under a prefix, one difference is one difference.
    let file = renamed(&all, |name| format!("module.{}", name.replace("layers.0.bias", "layers.0.offset")));
    let Err(Error::Mismatch { mismatch, .. }) = load(self::net(), &file, &KEYS) else { panic!("filled") };
    assert_eq!(mismatch.missing, ["module.layers.0.bias"]);
    assert_eq!(mismatch.unused, ["module.layers.0.offset"]);
}

/// Two names of the file that mean one parameter: the second is not dropped in silence.
#[test]
fn two_spellings_of_one_name_are_reported() {
    let all = tensors(&net(), &KEYS);
    let keys = KeyMap { aliases: &[("old", "linear")], ..KEYS };
    let both = all.iter().cloned().chain([named("old.bias", &[4], |_| 0.0)]);
    let Err(Error::Mismatch { mismatch, .. }) = load(net(), &of(both), &keys) else { panic!("filled") };
    assert_eq!((mismatch.missing.len(), mismatch.unused.as_slice()), (0, &["old.bias".to_owned()][..]));
}

/// A report of thousands of names, or of names that are too long or made for a terminal, is one short sentence.
#[test]
fn a_report_is_short() {
    let long = "x".repeat(50_000);
    let many = (0..3000).map(|i| named(&format!("weights.of.{i}.another.kind.of.network"), &[1], |_| 0.0));
    let odd = ["\u{1b}[2J\u{7}\n.w".to_owned(), long, "ß".repeat(300), String::new()];
    let odd = odd.map(|name| named(&name, &[1], |_| 0.0));
    let shapes = [named("linear.bias", &[1; 4000], |_| 0.0)];
    for file in [of(many.clone()), of(odd.clone()), of(many.chain(odd).chain(shapes))] {
        let count = file.entries().len();
        let said = load(net(), &file, &KEYS).unwrap_err().to_string();
        assert!(said.chars().count() < 1000, "{} characters", said.chars().count());
        assert!(!said.chars().any(char::is_control), "{said:?}");
        let unused = count - usize::from(file.entries().contains_key("linear.bias"));
        assert!(said.contains(&format!("{unused} unused")), "{said}");
    }
    let said = load(net(), &renamed(&tensors(&net(), &KEYS), |name| format!("a.b.{name}x")), &KEYS);
    assert!(said.unwrap_err().to_string().contains("all of the unused begin with \"a.b.\""));
}

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
