//! `dmd devices` and `dmd self-check`.

use super::{dmd, refused};
use crate::support::tiny_model;

/// What is compiled in and found, and what the rest would take.
#[test]
fn devices_are_listed() {
    let here = tempfile::tempdir().unwrap();
    let output = dmd(here.path(), &["devices"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for name in ["flex", "ndarray", "wgpu", "vulkan", "cuda"] {
        assert!(said.lines().any(|line| line.starts_with(name)), "{name} in {said}");
    }
    let flex = said.lines().find(|line| line.starts_with("flex")).unwrap();
    assert!(flex.contains("f32") && flex.contains("bf16") && flex.contains("threads"), "{flex}");
    for line in String::from_utf8_lossy(&dmd(here.path(), &["devices", "--json"]).stdout).lines() {
        let found: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(found["device"].is_string(), "{line}");
    }
    if !dmd::device::available().contains(&"cuda") {
        let sentence = refused(here.path(), &["generate", "x", "--device", "cuda:0"]);
        assert!(sentence.contains("--features cuda"), "{sentence}");
    }
}

/// A GPU's memory grows by what is put onto it; a CPU backend has none of its own.
#[test]
fn devices_are_asked_for_their_memory() {
    const BYTES: u64 = 64 << 20;
    let device = crate::support::device();
    let before = dmd::device::memory(&device);
    let held = burn::tensor::Tensor::<1>::ones([BYTES as usize / 4], &device);
    let sum = (held.clone() * 2.0).sum().into_scalar::<f32>();
    let after = dmd::device::memory(&device);
    assert!(sum > 0.0 && held.dims() == [BYTES as usize / 4]);
    match crate::support::device_name().as_str() {
        "flex" | "ndarray" => assert_eq!((before, after), (None, None)),
        _ => assert!(after.unwrap() >= BYTES, "{after:?} after {before:?}"),
    }
}

/// The device under test is right on a tiny model; half precision is told apart from single.
#[test]
fn self_check_of_a_tiny_model() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    let model = model.path().to_str().unwrap();
    let device = std::env::var("DMD_TEST_DEVICE").unwrap_or_else(|_| "flex".to_owned());
    let output = dmd(here.path(), &["self-check", "--all", "--device", &device, "--model", model]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for what in ["convolution 3×3", "attention of", "group norm", "text encoder", "UNet", "decoder"] {
        assert!(said.contains(what), "{what} in {said}");
    }
    if crate::support::device().supports_dtype(burn::tensor::FloatDType::BF16) {
        let output = dmd(
            here.path(),
            &["self-check", "--all", "--dtype", "bf16", "--device", &device, "--model", model],
        );
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("in bf16"), "{said}");
    } else {
        refused(here.path(), &["self-check", "--dtype", "bf16", "--device", &device, "--model", model]);
    }
}
