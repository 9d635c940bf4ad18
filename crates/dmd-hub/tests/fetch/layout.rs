//! What a whole fetch leaves in the cache, and what the next one asks for.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use dmd_hub::{Error, Progress, Repository, Selection};
use tempfile::tempdir;

use crate::fake::{COMMIT, FakeHub, Fault, etag, fetch};
use crate::{CHOSEN, WEIGHTS, assert_nothing_half, assert_whole, names, repository};

#[test]
fn a_model_is_fetched_in_the_layout_of_python() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    let here = hub.client(home.path(), &[]);
    assert_eq!(here.cache(), home.path().join("hub"));
    let snapshot = fetch(&here, "org/model").unwrap();
    let root = repository(home.path());
    assert_eq!(snapshot.folder, root.join("snapshots").join(COMMIT));
    assert_eq!(snapshot.model(), snapshot.folder);
    assert_eq!(snapshot.selection.files.len(), CHOSEN);
    let paths: Vec<&str> = snapshot.selection.files.iter().map(|entry| entry.path.as_str()).collect();
    assert_whole(&hub, &snapshot.folder, &paths);
    assert!(!snapshot.folder.join("README.md").exists());
    assert!(!snapshot.folder.join("unet/diffusion_pytorch_model.bin").exists());
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let content = &hub.state().files[WEIGHTS];
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(snapshot.folder.join(WEIGHTS)).unwrap(),
        Path::new("../../../blobs").join(etag(content))
    );
    assert!(home.path().join(format!("hub/.locks/models--org--model/{}.lock", etag(content))).is_file());
    // Two files of the same content share it.
    assert_eq!(names(&root.join("blobs")).len(), CHOSEN - 1);
    assert!(names(&root.join("blobs")).iter().all(|name| !name.contains("incomplete")));
    assert_nothing_half(home.path());
}

#[test]
fn a_second_run_asks_for_the_branch_alone_and_for_nothing_with_a_commit_or_offline() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    let here = hub.client(home.path(), &[]);
    let first = fetch(&here, "org/model").unwrap();
    let requests = hub.requests();
    // The commit, four pages, and two or three for each file that is not there yet under another name.
    assert_eq!(requests.iter().filter(|request| request.path.contains("/revision/")).count(), 1);
    assert_eq!(requests.iter().filter(|request| request.path.contains("/tree/")).count(), 4);
    assert_eq!(fetch(&here, "org/model").unwrap(), first);
    let paths: Vec<String> = hub.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/api/models/org/model/revision/main"]);
    assert_eq!(fetch(&here, &format!("org/model@{COMMIT}")).unwrap(), first);
    let offline = hub.client(home.path(), &[("HF_HUB_OFFLINE", "1")]);
    assert_eq!(fetch(&offline, "org/model").unwrap(), first);
    assert_eq!(fetch(&offline, &format!("org/model@{COMMIT}")).unwrap(), first);
    assert_eq!(offline.list(&Repository::parse("org/model").unwrap()).unwrap().commit, COMMIT);
    assert!(hub.requests().is_empty());
}

#[test]
fn a_branch_that_moves_is_followed_and_left_alone_until_its_files_are_there() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    let here = hub.client(home.path(), &[]);
    let first = fetch(&here, "org/model").unwrap();
    let next = "2".repeat(40);
    hub.state().revisions.insert("main".to_owned(), next.clone());
    hub.state().files.insert("unet/config.json".to_owned(), b"{\"in_channels\":9}".to_vec());
    for _ in 0..9 {
        hub.fault("/resolve/", Fault::Status(500, ""));
    }
    assert!(matches!(fetch(&here, "org/model"), Err(Error::Status { status: 500, .. })));
    let offline = hub.client(home.path(), &[("HF_HUB_OFFLINE", "1")]);
    assert_eq!(fetch(&offline, "org/model").unwrap(), first);
    hub.state().faults.clear();
    hub.requests();
    let second = fetch(&here, "org/model").unwrap();
    assert_eq!(second.commit, next);
    assert_whole(&hub, &second.folder, &["unet/config.json", WEIGHTS]);
    // What did not change is not fetched again.
    assert_eq!(hub.requests().iter().filter(|request| request.path.contains("/resolve/")).count(), 1);
    assert_eq!(fetch(&offline, "org/model").unwrap(), second);
    assert!(first.folder.join("unet/config.json").exists());
}

#[test]
fn tags_and_branches_with_slashes() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    hub.state().revisions.insert("refs/pr/4".to_owned(), COMMIT.to_owned());
    fetch(&hub.client(home.path(), &[]), "org/model@refs/pr/4").unwrap();
    assert_eq!(hub.requests()[0].path, "/api/models/org/model/revision/refs%2Fpr%2F4");
    assert_eq!(fs::read_to_string(repository(home.path()).join("refs/refs/pr/4")).unwrap(), COMMIT);
}

#[test]
fn progress_counts_up_to_the_end() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    let mut seen: Vec<(String, u64, u64, u64, u64)> = Vec::new();
    let here = hub.client(home.path(), &[]);
    let note = |progress: &Progress<'_>| {
        let Progress { file, file_done, file_total, done, total, .. } = *progress;
        seen.push((file.to_owned(), file_done, file_total, done, total));
        ControlFlow::Continue(())
    };
    let choose = |entries: &[dmd_hub::Entry]| Ok(Selection::matching(entries, &["unet/*", "vae/*"]));
    let snapshot = here.fetch(&Repository::parse("org/model").unwrap(), choose, note).unwrap();
    let total = snapshot.selection.bytes();
    assert!(seen.windows(2).all(|pair| pair[0].3 <= pair[1].3), "it goes back");
    assert!(seen.iter().all(|(_, done, all, _, sum)| done <= all && *sum == total));
    assert_eq!(seen.last().unwrap().3, total);
    assert_eq!(
        seen.iter().find(|(file, done, ..)| file == WEIGHTS && *done == 3_000_000).unwrap().2,
        3_000_000
    );
    // What is there is not counted, and nothing is reported.
    let mut calls = 0;
    here.fetch(&Repository::parse("org/model").unwrap(), choose, |_| {
        calls += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(calls, 0);
}

#[test]
fn without_links_the_files_themselves_are_in_the_snapshot() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    let here = hub.client(home.path(), &[("HF_HUB_DISABLE_SYMLINKS", "1")]);
    let snapshot = fetch(&here, "org/model").unwrap();
    let paths: Vec<&str> = snapshot.selection.files.iter().map(|entry| entry.path.as_str()).collect();
    assert_whole(&hub, &snapshot.folder, &paths);
    for path in paths {
        assert!(fs::symlink_metadata(snapshot.folder.join(path)).unwrap().is_file(), "{path}");
    }
    hub.requests();
    assert_eq!(fetch(&here, "org/model").unwrap(), snapshot);
    assert_eq!(hub.requests().len(), 1);
    // Content that another commit links to is copied, not moved away.
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    let linked = fetch(&hub.client(home.path(), &[]), "org/model").unwrap();
    hub.state().revisions.insert("main".to_owned(), "2".repeat(40));
    let copied = fetch(&hub.client(home.path(), &[("HF_HUB_DISABLE_SYMLINKS", "1")]), "org/model").unwrap();
    assert_whole(&hub, &linked.folder, &[WEIGHTS]);
    assert_whole(&hub, &copied.folder, &[WEIGHTS]);
}
