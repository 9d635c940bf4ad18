//! Fetching from a hub on the loopback device, in good order and with everything that can go wrong.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod absence;
mod fake;
mod layout;
mod refusals;
mod resuming;
mod waiting;

use std::fs;
use std::path::{Path, PathBuf};

use fake::{COMMIT, FakeHub, etag};

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";
const CHOSEN: usize = 8;

/// The folder of `org/model` in a cache.
fn repository(home: &Path) -> PathBuf {
    home.join("hub/models--org--model")
}

/// Names of a folder's files.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .map(|items| items.flatten().map(|item| item.file_name().into_string().unwrap()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

#[track_caller]
fn assert_whole(hub: &FakeHub, folder: &Path, paths: &[&str]) {
    for path in paths {
        assert!(fs::read(folder.join(path)).unwrap() == hub.state().files[*path], "{path}");
    }
}

/// No name of the cache leads to content that is not the hub's.
#[track_caller]
fn assert_nothing_half(home: &Path) {
    let blobs = repository(home).join("blobs");
    for name in names(&blobs) {
        if !name.ends_with(".incomplete") {
            assert_eq!(etag(&fs::read(blobs.join(&name)).unwrap()), name);
        }
    }
    assert!(
        !names(&repository(home).join("snapshots").join(COMMIT)).iter().any(|name| name.ends_with(".tmp"))
    );
}
