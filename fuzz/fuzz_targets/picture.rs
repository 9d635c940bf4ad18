//! Any bytes as a picture to start from, within the limits of the `image` crate.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = image::load_from_memory(bytes);
});
