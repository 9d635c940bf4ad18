//! Without a network, and with a cache that somebody else made or owns.

use std::error::Error as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use dmd_hub::Error;
use tempfile::tempdir;

use crate::fake::{COMMIT, FakeHub, Fault, client, etag, fetch, fetch_file};
use crate::{CHOSEN, WEIGHTS, assert_whole, repository};

#[test]
fn without_a_network_the_cache_is_opened_or_the_error_says_what_it_lacks() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    let first = fetch(&hub.client(home.path(), &[]), "org/model").unwrap();
    // A port where nobody listens.
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let absent = client(&nobody, home.path(), &[]).with_retry_pause(Duration::from_secs(60));
    let start = Instant::now();
    assert_eq!(fetch(&absent, "org/model").unwrap(), first);
    assert!(start.elapsed() < Duration::from_secs(20), "it waits for what it does not need");
    let error = fetch_file(&absent, "README.md").unwrap_err();
    assert!(
        matches!(&error, Error::NotCached { missing, source: Some(_) } if missing == &["README.md"]),
        "{error}"
    );
    assert!(error.source().is_some());
    // Nothing is cached: the network's own fault, after two more tries.
    let absent = client(&nobody, tempdir().unwrap().path(), &[]).with_retry_pause(Duration::from_millis(100));
    let start = Instant::now();
    assert!(matches!(fetch(&absent, "org/model"), Err(Error::Network { .. })));
    assert!((Duration::from_millis(300)..Duration::from_secs(20)).contains(&start.elapsed()));
    // The hub is there, but out of order: the same.
    hub.fault("/revision/", Fault::Status(503, ""));
    assert_eq!(fetch(&hub.client(home.path(), &[]), "org/model").unwrap(), first);
}

#[test]
fn offline_names_what_is_missing() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    let offline = hub.client(home.path(), &[("HF_HUB_OFFLINE", "1")]);
    let error = fetch(&offline, "org/model@v2").unwrap_err();
    assert!(
        error.to_string().contains("org/model@v2") && error.to_string().contains("HF_HUB_OFFLINE"),
        "{error}"
    );
    fetch_file(&hub.client(home.path(), &[]), "unet/config.json").unwrap();
    hub.requests();
    let error = fetch(&offline, "org/model").unwrap_err();
    assert!(
        matches!(&error, Error::NotCached { missing, source: None } if missing.len() == CHOSEN - 1),
        "{error}"
    );
    assert!(error.to_string().contains("and 4 more"), "{error}");
    // A file that is there but shorter than it must be is missing.
    fetch(&hub.client(home.path(), &[]), "org/model").unwrap();
    let content = repository(home.path()).join("blobs").join(etag(&hub.state().files[WEIGHTS]));
    fs::OpenOptions::new().write(true).open(&content).unwrap().set_len(1_000_000).unwrap();
    hub.requests();
    let error = fetch(&offline, "org/model").unwrap_err();
    assert!(matches!(&error, Error::NotCached { missing, .. } if missing == &[WEIGHTS]), "{error}");
    assert!(hub.requests().is_empty());
    // With a network it is fetched anew.
    let snapshot = fetch(&hub.client(home.path(), &[]), "org/model").unwrap();
    assert_whole(&hub, &snapshot.folder, &[WEIGHTS]);
}

#[test]
fn a_cache_of_another_program_is_opened_offline() {
    let home = tempdir().unwrap();
    let root = repository(home.path());
    let put = |path: &str, bytes: &[u8]| {
        let pointer = root.join("snapshots").join(COMMIT).join(path);
        let blob = root.join("blobs").join(etag(bytes));
        fs::create_dir_all(pointer.parent().unwrap()).unwrap();
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::write(&blob, bytes).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(Path::new("../../../blobs").join(etag(bytes)), pointer).unwrap();
        #[cfg(not(unix))]
        fs::write(pointer, bytes).unwrap();
    };
    put("unet/config.json", b"{}");
    put("unet/diffusion_pytorch_model.fp16.safetensors", &[5; 2000]);
    fs::create_dir_all(root.join("refs")).unwrap();
    fs::write(root.join("refs/main"), COMMIT).unwrap();
    // An endpoint that would fail, and no list of files at all.
    let offline = client("http://127.0.0.1:1", home.path(), &[("HF_HUB_OFFLINE", "1")]);
    let snapshot = fetch(&offline, "org/model").unwrap();
    assert_eq!(snapshot.selection.files.len(), 2);
    // With the list that `huggingface_hub` 2 keeps, what is missing is known.
    fs::create_dir_all(root.join("trees")).unwrap();
    let list = format!(
        r#"{{"format_version":1,"files":{{
            "unet/config.json":{{"size":2,"blob_id":"{}"}},
            "unet/diffusion_pytorch_model.fp16.safetensors":{{"size":2000,"blob_id":"{COMMIT}","lfs_sha256":"{}","lfs_size":2000}},
            "vae/config.json":{{"size":2,"blob_id":"{}"}},
            "vae/diffusion_pytorch_model.safetensors":{{"size":3,"blob_id":"{COMMIT}"}}}}}}"#,
        etag(b"{}"),
        etag(&[5; 2000]),
        etag(b"{}")
    );
    fs::write(root.join("trees").join(format!("{COMMIT}.json")), list).unwrap();
    let error = fetch(&offline, "org/model").unwrap_err();
    assert!(matches!(&error, Error::NotCached { missing, .. } if missing.len() == 2), "{error}");
}

#[cfg(unix)]
#[test]
fn a_cache_that_cannot_be_written_to_is_read() {
    use std::os::unix::fs::PermissionsExt;
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    let first = fetch(&hub.client(home.path(), &[]), "org/model").unwrap();
    hub.state().revisions.insert("v1".to_owned(), COMMIT.to_owned());
    let set = |mode| {
        for folder in ["", "refs", "blobs"] {
            fs::set_permissions(repository(home.path()).join(folder), fs::Permissions::from_mode(mode))
                .unwrap();
        }
    };
    set(0o555);
    let again = fetch(&hub.client(home.path(), &[]), "org/model@v1");
    set(0o755);
    assert_eq!(again.unwrap(), first);
}
