//! Fetches that stop in the middle, and how the next request or call goes on.

use std::fs;
use std::ops::ControlFlow;
use std::time::Duration;

use dmd_hub::{Error, Repository, Variant, diffusers_selection};
use tempfile::tempdir;

use crate::fake::{COMMIT, FakeHub, Fault, etag, fetch, fetch_file};
use crate::{WEIGHTS, assert_nothing_half, assert_whole, names, repository};

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
