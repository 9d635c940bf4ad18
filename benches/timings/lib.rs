//! Timings of networks and operations: `cargo bench -p dmd-timings --features criterion`.
