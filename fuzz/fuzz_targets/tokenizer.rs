//! Any vocabulary and any prompt. The bytes are `tokenizer.json`, a zero byte, the prompt.
#![no_main]

use dmd_clip::Tokenizer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("tokenizer.json");
    std::fs::write(file, parts.next().unwrap_or_default()).expect("a written file");
    if let Ok(tokenizer) = Tokenizer::from_dir(folder.path(), 77) {
        let _ = tokenizer.encode(&String::from_utf8_lossy(parts.next().unwrap_or_default()));
    }
});
