//! Any TOML as the configuration of a training.
#![no_main]

use dmd_train::config::{DistillConfig, TeacherConfig};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("run.toml");
    std::fs::write(&path, bytes).expect("a written file");
    let _ = TeacherConfig::from_file(&path);
    let _ = DistillConfig::from_file(&path);
});
