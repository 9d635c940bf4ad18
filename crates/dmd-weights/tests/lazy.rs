//! Opening a file reads its header alone. The only test of its program: it looks at the memory of the whole process.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, OpenOptions};
use std::io::Write;

use dmd_weights::read;

/// Pages of files that this process has in memory, in bytes.
fn mapped_in_memory() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(2).unwrap().parse::<usize>().unwrap() * 4096
}

/// Finding 1.13: `inspect` of 4 GB read 4 GB. Here 256 MB, of which a value is 1 MB.
#[test]
fn opening_reads_the_header_alone() {
    const VALUES: usize = 256;
    const LENGTH: usize = 1 << 20;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.safetensors");
    let entry = |i: usize| {
        let (from, to) = (i * LENGTH, (i + 1) * LENGTH);
        format!("\"t{i:03}\":{{\"dtype\":\"F32\",\"shape\":[{}],\"data_offsets\":[{from},{to}]}}", LENGTH / 4)
    };
    let text = format!("{{{}}}", (0..VALUES).map(entry).collect::<Vec<_>>().join(","));
    let mut file = OpenOptions::new().create_new(true).write(true).open(&path).unwrap();
    file.write_all(&(text.len() as u64).to_le_bytes()).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.set_len((8 + text.len() + VALUES * LENGTH) as u64).unwrap();

    let before = mapped_in_memory();
    let opened = read(&path).unwrap().only("t").renamed(|name| Some(format!("x.{name}"))).unwrap();
    assert_eq!(opened.entries().len(), VALUES);
    let header = mapped_in_memory() - before;
    // The header and what the system maps around it.
    assert!(header < 8 << 20, "{header} bytes in memory after opening");
    assert_eq!(opened.floats("x.100").unwrap(), vec![0.0; LENGTH / 4]);
    // The values are a copy, and the file's pages are given back.
    let one = mapped_in_memory() - before;
    assert!(one < header + LENGTH / 2, "{one} bytes in memory after one of {VALUES} values");
}
