//! Any bytes as a safetensors file, an index of shards, or a PyTorch state dict: an error, or a file
//! whose every tensor can be read.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["w.safetensors", "w.safetensors.index.json", "w.bin"] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("a written file");
        if let Ok(file) = dmd_weights::read(&path) {
            for name in file.entries().keys() {
                let _ = file.floats(name);
                let _ = file.integers(name);
            }
        }
    }
});
