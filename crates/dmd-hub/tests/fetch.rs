//! Fetching from a hub on the loopback device, in good order and with everything that can go wrong.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use std::error::Error as _;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use dmd_hub::{Error, Hub, Progress, Repository, Selection, Variant, diffusers_selection};
use fake::{COMMIT, FakeHub, Fault, TOKEN, client, etag, fetch, fetch_file};
use tempfile::tempdir;

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
fn a_connection_that_breaks_is_gone_on_with() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    for bytes in [1_000_000, 700_000, 1] {
        hub.fault("/cdn/unet", Fault::Cut(bytes));
    }
    let snapshot = fetch_file(&hub.client(home.path(), &[]), WEIGHTS).unwrap();
    assert_whole(&hub, &snapshot.folder, &[WEIGHTS]);
    let ranges: Vec<_> =
        hub.requests().into_iter().filter(|request| request.second).map(|request| request.range).collect();
    let ranges: Vec<_> = ranges.iter().map(|range| range.as_deref().unwrap_or("all")).collect();
    assert_eq!(ranges, ["all", "bytes=1000000-", "bytes=1700000-", "bytes=1700001-"]);
    assert_nothing_half(home.path());
}

#[test]
fn a_server_without_ranges_begins_anew() {
    for fault in [Fault::NoRange, Fault::OtherRange, Fault::Status(416, "")] {
        let (hub, home) = (FakeHub::new(), tempdir().unwrap());
        hub.fault("/cdn/unet", Fault::Cut(1_000_000));
        hub.fault("/cdn/unet", fault);
        let snapshot = fetch_file(&hub.client(home.path(), &[]), WEIGHTS).unwrap();
        assert_whole(&hub, &snapshot.folder, &[WEIGHTS]);
        assert_nothing_half(home.path());
    }
}

#[test]
fn a_server_that_gets_nowhere_is_given_up() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    for _ in 0..100 {
        hub.fault("/cdn/unet", Fault::Cut(1000));
        hub.fault("/cdn/unet", Fault::Status(416, ""));
    }
    assert!(fetch_file(&hub.client(home.path(), &[]), WEIGHTS).is_err());
    assert!(hub.requests().iter().filter(|request| request.second).count() < 10);
    hub.state().faults.clear();
    let blobs = repository(home.path()).join("blobs");
    let incomplete = blobs.join(format!("{}.incomplete", etag(&hub.state().files[WEIGHTS])));
    fs::write(&incomplete, vec![1; 1000]).unwrap();
    // The beginning is wrong, and so is the new start.
    hub.fault("/cdn/unet", Fault::Slow(Duration::ZERO));
    hub.fault("/cdn/unet", Fault::WrongByte);
    let error = fetch_file(&hub.client(home.path(), &[]), WEIGHTS).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { file, .. } if file == WEIGHTS), "{error}");
    assert!(!incomplete.exists());
}

#[test]
fn a_cancelled_call_is_gone_on_with_by_the_next() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    let here = hub.client(home.path(), &[]);
    let mut reached = 0;
    let result = here.fetch(
        &Repository::parse("org/model").unwrap(),
        |entries| diffusers_selection(entries, Variant::Full),
        |progress| {
            reached = progress.file_done;
            if progress.file == WEIGHTS && progress.file_done > 1_000_000 {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        },
    );
    assert!(matches!(result, Err(Error::Cancelled)));
    assert!(!repository(home.path()).join("snapshots").join(COMMIT).join(WEIGHTS).exists());
    assert_nothing_half(home.path());
    hub.requests();
    let snapshot = fetch(&here, "org/model").unwrap();
    assert_whole(&hub, &snapshot.folder, &[WEIGHTS]);
    let requests = hub.requests();
    let ranges: Vec<_> = requests.iter().filter(|request| request.path.contains("/cdn/unet")).collect();
    assert_eq!(ranges.len(), 1);
    assert_eq!(ranges[0].range, Some(format!("bytes={reached}-")));
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
fn a_wrong_file_is_deleted_and_named() {
    for (fault, file) in [
        (Fault::WrongByte, WEIGHTS),
        (Fault::WrongByte, "unet/config.json"),
        (Fault::WrongLength(5), WEIGHTS),
        (Fault::WrongLength(-5), WEIGHTS),
        (Fault::TooLong, WEIGHTS),
        (Fault::TooLong, "vae/config.json"),
        (Fault::Text("<html>log in first</html>".to_owned()), "unet/config.json"),
    ] {
        let (hub, home) = (FakeHub::new(), tempdir().unwrap());
        let here = hub.client(home.path(), &[]);
        let part = if file == WEIGHTS { "/cdn/unet" } else { "/resolve-cache/" };
        hub.fault(part, fault.clone());
        let error = fetch_file(&here, file).unwrap_err();
        assert!(matches!(&error, Error::Corrupt { file: named, .. } if named == file), "{fault:?}: {error}");
        assert!(error.to_string().contains(file));
        assert!(names(&repository(home.path()).join("blobs")).is_empty(), "{fault:?}");
        assert!(names(&repository(home.path()).join("snapshots").join(COMMIT)).is_empty());
        let snapshot = fetch_file(&here, file).unwrap();
        assert_whole(&hub, &snapshot.folder, &[file]);
    }
}

#[test]
fn a_wrong_beginning_of_an_earlier_run_is_thrown_away() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    let blobs = repository(home.path()).join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let name = format!("{}.incomplete", etag(&hub.state().files[WEIGHTS]));
    for (length, ranges) in
        [(1000, vec![Some("bytes=1000-"), None]), (3_000_000, vec![None]), (3_000_001, vec![None])]
    {
        fs::write(blobs.join(&name), vec![1; length]).unwrap();
        hub.requests();
        let snapshot = fetch_file(&hub.client(home.path(), &[]), WEIGHTS).unwrap();
        assert_whole(&hub, &snapshot.folder, &[WEIGHTS]);
        let requests = hub.requests();
        let asked: Vec<_> = requests
            .iter()
            .filter(|request| request.second)
            .map(|request| request.range.as_deref())
            .collect();
        assert_eq!(asked, ranges);
        fs::remove_dir_all(repository(home.path()).join("snapshots")).unwrap();
        fs::remove_file(blobs.join(etag(&hub.state().files[WEIGHTS]))).unwrap();
    }
    // A whole one of an earlier run that could not rename it needs no request but the list's.
    let content = hub.state().files[WEIGHTS].clone();
    fs::write(blobs.join(&name), content).unwrap();
    hub.requests();
    fetch_file(&hub.client(home.path(), &[]), WEIGHTS).unwrap();
    assert!(!hub.requests().iter().any(|request| request.path.contains("/resolve/")));
    assert_nothing_half(home.path());
}

#[test]
fn errors_of_the_server_are_tried_again_but_not_for_ever() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    for status in [500, 502, 503, 504, 408] {
        hub.fault("/revision/", Fault::Status(status, ""));
        hub.fault("/tree/", Fault::Status(status, ""));
        hub.fault("/cdn/unet", Fault::Status(status, ""));
    }
    fetch(&hub.client(home.path(), &[]), "org/model").unwrap();
    let home = tempdir().unwrap();
    hub.requests();
    for _ in 0..20 {
        hub.fault(
            "/revision/",
            Fault::Status(500, "X-Error-Message: Internal Error - We're working hard\r\n"),
        );
    }
    let error = fetch(&hub.client(home.path(), &[]), "org/model").unwrap_err();
    assert!(error.to_string().contains("status 500 (Internal Error"), "{error}");
    assert_eq!(hub.requests().len(), 6);
}

#[test]
fn a_rate_limit_is_waited_for_as_long_as_the_hub_says() {
    for header in ["Retry-After: 1\r\n", "RateLimit: \"api\";r=0;t=1\r\n"] {
        let (hub, home) = (FakeHub::new(), tempdir().unwrap());
        hub.fault("/resolve/", Fault::Status(429, header));
        let start = Instant::now();
        fetch_file(&hub.client(home.path(), &[]), "unet/config.json").unwrap();
        assert!(start.elapsed() >= Duration::from_secs(1));
    }
    // An hour is not waited for, and a wait can be cancelled.
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    hub.fault("/revision/", Fault::Status(429, "Retry-After: 3600\r\n"));
    let here = hub.client(home.path(), &[]);
    assert!(matches!(fetch(&here, "org/model"), Err(Error::Status { status: 429, .. })));
    hub.fault("/revision/", Fault::Status(429, "Retry-After: 300\r\n"));
    let start = Instant::now();
    let result = here.fetch(
        &Repository::parse("org/model").unwrap(),
        |_| unreachable!(),
        |progress| {
            assert_eq!(progress.file, "");
            if start.elapsed() > Duration::from_millis(300) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    );
    assert!(matches!(result, Err(Error::Cancelled)));
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_silent_server_is_given_up_and_gone_on_with_a_slow_one_is_not() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    let here = hub.client(home.path(), &[("HF_HUB_DOWNLOAD_TIMEOUT", "0.5")]);
    hub.fault("/cdn/unet", Fault::Stall(1_000_000, Duration::from_secs(20)));
    hub.fault("/tree/", Fault::Stall(10, Duration::from_secs(20)));
    let start = Instant::now();
    let snapshot = fetch_file(&here, WEIGHTS).unwrap();
    assert_whole(&hub, &snapshot.folder, &[WEIGHTS]);
    assert!(start.elapsed() < Duration::from_secs(15));
    let requests = hub.requests();
    assert_eq!(
        requests.iter().rfind(|request| request.second).unwrap().range.as_deref(),
        Some("bytes=1000000-")
    );
    // Longer altogether than the time in which something must come.
    let home = tempdir().unwrap();
    let here = hub.client(home.path(), &[("HF_HUB_DOWNLOAD_TIMEOUT", "0.5")]);
    hub.fault("/cdn/unet", Fault::Slow(Duration::from_millis(40)));
    fetch_file(&here, WEIGHTS).unwrap();
    assert_eq!(hub.requests().iter().filter(|request| request.second).count(), 1);
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    hub.state().gated = true;
    let here = hub.client(home.path(), &[("HF_TOKEN", TOKEN)]);
    fetch(&here, "org/model").unwrap();
    let requests = hub.requests();
    assert!(requests.iter().any(|request| request.second));
    for request in &requests {
        assert_eq!(request.token.as_deref(), (!request.second).then_some(TOKEN), "{request:?}");
    }
    assert!(!format!("{here:?}").contains(TOKEN));
    // Nor with the next page of a list.
    let home = tempdir().unwrap();
    let second = hub.state().second.clone();
    hub.fault("/tree/", Fault::Redirect(format!("{second}/cdn/README.md")));
    let here = hub.client(home.path(), &[("HF_TOKEN", TOKEN)]);
    assert!(matches!(fetch(&here, "org/model"), Err(Error::Answer { .. })));
    assert!(hub.requests().iter().all(|request| request.second == request.token.is_none()));
}

#[test]
fn redirects_end() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    for _ in 0..20 {
        hub.fault("/revision/", Fault::Redirect("/api/models/org/model/revision/main".to_owned()));
    }
    let error = fetch(&hub.client(home.path(), &[]), "org/model").unwrap_err();
    assert!(error.to_string().contains("redirects again and again"), "{error}");
    hub.state().faults.clear();
    hub.fault("/revision/", Fault::Redirect("file:///etc/passwd".to_owned()));
    assert!(matches!(fetch(&hub.client(home.path(), &[]), "org/model"), Err(Error::Answer { .. })));
}

#[test]
fn what_the_hub_refuses_is_told_apart() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    let here = hub.client(home.path(), &[]);
    let error = fetch(&here, "org/none").unwrap_err();
    assert!(matches!(error, Error::RepositoryNotFound { with_token: false, .. }), "{error}");
    assert!(error.to_string().contains("HF_TOKEN"), "{error}");
    let error = fetch(&here, "org/model@none").unwrap_err();
    assert!(matches!(&error, Error::RevisionNotFound { revision, .. } if revision == "none"), "{error}");
    let missing = "3".repeat(40);
    let error = fetch(&here, &format!("org/model@{missing}")).unwrap_err();
    assert!(matches!(&error, Error::RevisionNotFound { revision, .. } if revision == &missing), "{error}");
    let error = fetch(&here, "org/model:none.safetensors").unwrap_err();
    assert!(matches!(&error, Error::FileNotFound { file, .. } if file == "none.safetensors"), "{error}");
    hub.fault("/resolve/", Fault::Status(404, "X-Error-Code: EntryNotFound\r\n"));
    let error = fetch_file(&here, "unet/config.json").unwrap_err();
    assert!(matches!(&error, Error::FileNotFound { file, .. } if file == "unet/config.json"), "{error}");
    hub.fault("/resolve/", Fault::Status(403, "X-Error-Message: Access to this resource is disabled.\r\n"));
    let error = fetch_file(&here, "unet/config.json").unwrap_err();
    assert!(error.to_string().contains("403 (Access to this resource is disabled.)"), "{error}");
    let error = fetch(&hub.client(home.path(), &[("HF_TOKEN", "hf_old")]), "org/model").unwrap_err();
    assert!(matches!(error, Error::TokenRefused), "{error}");
    assert!(names(&repository(home.path()).join("blobs")).is_empty());
}

#[test]
fn a_gated_repository_names_its_page() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    hub.state().gated = true;
    let page = format!("{}/org/model", hub.endpoint);
    for (token, hint) in
        [(None, "set HF_TOKEN"), (Some(("HF_TOKEN", "hf_stranger")), "of the account that did so")]
    {
        let error = fetch(&hub.client(home.path(), token.as_slice()), "org/model").unwrap_err();
        assert!(matches!(&error, Error::Gated { page: named, .. } if named == &page), "{error}");
        assert!(
            error.to_string().contains("accept its conditions") && error.to_string().contains(hint),
            "{error}"
        );
    }
}

#[test]
fn names_that_leave_the_folder_are_refused_before_anything_is_written() {
    for name in [
        "../../../evil.json",
        "/tmp/evil.json",
        "a/../../evil.json",
        "a\\..\\evil.json",
        "C:/evil.json",
        "evil?.json",
    ] {
        let (hub, home) = (FakeHub::new(), tempdir().unwrap());
        hub.state().files.insert(name.to_owned(), b"{}".to_vec());
        let here = hub.client(home.path(), &[]);
        let error = fetch_file(&here, "*evil*").unwrap_err();
        assert!(matches!(&error, Error::Name { name: named, .. } if named == name), "{error}");
        assert!(!repository(home.path()).join("blobs").exists());
        assert!(!Path::new("/tmp/evil.json").exists());
        // They do not stand in the way of a model that does not need them.
        fetch(&here, "org/model").unwrap();
    }
    // Odd but harmless names are names.
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    hub.state().files.insert("Bild 1 (ä)#%41.json".to_owned(), b"{}".to_vec());
    let snapshot = fetch_file(&hub.client(home.path(), &[]), "Bild*").unwrap();
    assert_whole(&hub, &snapshot.folder, &["Bild 1 (ä)#%41.json"]);
}

#[test]
fn a_list_that_is_broken_is_not_used() {
    let file = |oid: &str| format!(r#"[{{"type":"file","oid":"{oid}","size":2,"path":"unet/config.json"}}]"#);
    for text in [
        r#"[{"type":"file","oid":"11"#.to_owned(),
        "<html></html>".to_owned(),
        r#"{"error":"x"}"#.to_owned(),
        file("../../../x"),
        file(""),
        file(&"A".repeat(40)),
    ] {
        let (hub, home) = (FakeHub::new(), tempdir().unwrap());
        hub.fault("cursor=3", Fault::Text(text));
        let here = hub.client(home.path(), &[]);
        assert!(matches!(fetch(&here, "org/model"), Err(Error::Answer { .. })));
        assert_eq!(fetch(&here, "org/model").unwrap().selection.files.len(), CHOSEN);
    }
    // Cut in the middle: asked for again.
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    hub.fault("cursor=3", Fault::Cut(20));
    assert_eq!(fetch(&hub.client(home.path(), &[]), "org/model").unwrap().selection.files.len(), CHOSEN);
    // A commit that could be a path.
    for sha in ["../../x", "main", ""] {
        hub.fault("/revision/", Fault::Text(format!(r#"{{"sha":"{sha}"}}"#)));
        assert!(matches!(
            fetch(&hub.client(tempdir().unwrap().path(), &[]), "org/model"),
            Err(Error::Answer { .. })
        ));
    }
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

#[test]
fn several_at_once_fetch_each_file_once() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    hub.fault("/cdn/unet", Fault::Slow(Duration::from_millis(20)));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let here = hub.client(home.path(), &[]);
            thread::spawn(move || fetch(&here, "org/model").unwrap())
        })
        .collect();
    for thread in threads {
        let snapshot = thread.join().unwrap();
        assert_whole(&hub, &snapshot.folder, &[WEIGHTS, "vae/config.json"]);
    }
    assert_eq!(hub.requests().iter().filter(|request| request.path.contains("/cdn/unet")).count(), 1);
    assert_nothing_half(home.path());
}

#[test]
fn a_wait_for_another_process_can_be_cancelled() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    let locks = home.path().join("hub/.locks/models--org--model");
    fs::create_dir_all(&locks).unwrap();
    let lock = fs::File::create(locks.join(format!("{}.lock", etag(&hub.state().files[WEIGHTS])))).unwrap();
    lock.lock().unwrap();
    let start = Instant::now();
    let here: Hub = hub.client(home.path(), &[]);
    let result = here.fetch(
        &Repository::parse(&format!("org/model:{WEIGHTS}")).unwrap(),
        |_| unreachable!(),
        |_| {
            if start.elapsed() > Duration::from_millis(300) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    );
    assert!(matches!(result, Err(Error::Cancelled)));
    drop(lock);
    let snapshot = fetch(&here, &format!("org/model:{WEIGHTS}")).unwrap();
    assert_eq!(snapshot.model(), snapshot.folder.join(WEIGHTS));
    assert!(snapshot.folder.join("unet/config.json").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named_and_gone_on_with() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    let blobs = repository(home.path()).join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let incomplete = blobs.join(format!("{}.incomplete", etag(&hub.state().files[WEIGHTS])));
    std::os::unix::fs::symlink("/dev/full", &incomplete).unwrap();
    let here = hub.client(home.path(), &[]);
    let error = fetch(&here, "org/model").unwrap_err();
    assert!(
        matches!(&error, Error::DiskFull { file, missing: 3_000_000, folder } if file == WEIGHTS && folder == &blobs),
        "{error}"
    );
    assert!(!incomplete.exists());
    assert_whole(&hub, &fetch(&here, "org/model").unwrap().folder, &[WEIGHTS]);
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

#[test]
fn an_address_that_is_none_is_refused() {
    let hub = |endpoint: &str, certificates: Option<&str>| {
        Hub::from_variables(|name| match name {
            "HF_ENDPOINT" => Some(endpoint.to_owned()),
            "HOME" => Some("/nowhere".to_owned()),
            "SSL_CERT_FILE" => certificates.map(str::to_owned),
            _ => None,
        })
    };
    for endpoint in ["huggingface.co", "ftp://x", "https://"] {
        let error = hub(endpoint, None).unwrap_err();
        assert!(matches!(&error, Error::Setting { variable, .. } if variable == "HF_ENDPOINT"), "{error}");
    }
    // Certificates that are none; without TLS they are not read.
    let folder = tempdir().unwrap();
    let file = folder.path().join("none.pem");
    fs::write(&file, "none").unwrap();
    for file in [file.to_str().unwrap(), "/nowhere/none.pem"] {
        let error = hub("https://localhost", Some(file)).unwrap_err();
        assert!(matches!(&error, Error::Setting { variable, .. } if variable == "SSL_CERT_FILE"), "{error}");
        hub("http://localhost", Some(file)).unwrap();
    }
}
