//! Devices by name: those of this build open, others say what to do.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use dmd_kernels::device::{UnknownDevice, available, open};

#[test]
fn devices_by_name() {
    for name in available().into_iter().filter(|name| ["flex", "ndarray"].contains(name)) {
        open(name).unwrap();
    }
    let error = open("potato").unwrap_err();
    assert!(matches!(error, UnknownDevice::Name { .. }), "{error}");
    if !available().contains(&"cuda") {
        let message = open("cuda:0").unwrap_err().to_string();
        assert!(message.contains("--features cuda"), "{message}");
    }
    if available().contains(&"flex") {
        assert!(matches!(open("flex:3").unwrap_err(), UnknownDevice::Index { .. }));
    }
}
