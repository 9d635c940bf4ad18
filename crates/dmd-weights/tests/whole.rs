//! Files and folders that are replaced: never half, never lost, never the wrong thing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use dmd_weights::{Error, Fault, FolderLock, WholeFolder, with_fault, write_atomic};

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// Writes version `number`: two files that belong together.
fn version(folder: &WholeFolder, number: usize) -> Result<(), Error> {
    folder.replace(|fresh| {
        write_atomic(&fresh.join("state"), number.to_string().as_bytes())?;
        write_atomic(&fresh.join("deep/weights"), &[number as u8; 100])
    })
}

/// The number of a version that is there as a whole.
fn found(folder: &WholeFolder) -> usize {
    let newest = folder.newest().unwrap();
    let number = text(&newest.join("state")).parse().unwrap();
    assert_eq!(fs::read(newest.join("deep/weights")).unwrap(), [number as u8; 100]);
    number
}

/// [`version`] without a fault, and as fast as with one.
fn written(folder: &WholeFolder, number: usize) {
    with_fault(Fault::Fails(usize::MAX), || version(folder, number)).0.unwrap();
}

/// Runs `work` with a fault at each of its operations in turn, until one is beyond the last.
fn at_every_operation(fault: fn(usize) -> Fault, mut work: impl FnMut(Fault) -> usize) {
    let mut at = 0;
    while work(fault(at)) > at {
        at += 1;
    }
    assert!(at > 8, "{at} operations only");
}

/// Finding 1.4: killed at any operation, and again at any operation of the next run, a checkpoint is the one before or
/// the one that was being written; a run that is not killed then writes the next.
#[test]
fn a_folder_survives_two_kills() {
    let top = tempfile::tempdir().unwrap();
    let mut tries = 0;
    at_every_operation(Fault::Killed, |first| {
        let mut operations = 0;
        at_every_operation(Fault::Killed, |second| {
            tries += 1;
            let folder = WholeFolder::new(top.path().join(tries.to_string()));
            written(&folder, 1);
            operations = with_fault(first, || version(&folder, 2)).1;
            let middle = found(&folder);
            assert!(middle == 1 || middle == 2, "{first:?}: {middle}");
            let (result, after) = with_fault(second, || version(&folder, 3));
            let last = found(&folder);
            assert!(last == middle || last == 3, "{first:?}, {second:?}: {middle}, then {last}");
            assert!(result.is_err() || last == 3);
            written(&folder, 4);
            assert_eq!(found(&folder), 4);
            let left: Vec<_> = fs::read_dir(folder.newest().unwrap()).unwrap().collect();
            assert_eq!((folder.newest().unwrap().as_path(), left.len()), (folder.path(), 2));
            after
        });
        operations
    });
    let left = fs::read_dir(top.path()).unwrap().count();
    assert_eq!(left, tries, "one folder for each try, nothing beside them");
}

/// An error is another thing than a kill: the run goes on and may write again at once.
#[test]
fn a_folder_survives_any_failure() {
    let top = tempfile::tempdir().unwrap();
    let folder = WholeFolder::new(top.path().join("checkpoint"));
    assert_eq!(folder.newest(), None);
    at_every_operation(Fault::Fails, |fault| {
        written(&folder, 1);
        let (result, operations) = with_fault(fault, || version(&folder, 2));
        let now = found(&folder);
        assert!(now == 2 || (now == 1 && result.is_err()), "{fault:?}: {now}, {result:?}");
        written(&folder, 3);
        assert_eq!(found(&folder), 3);
        operations
    });
    let refused = folder.replace(|_| Err(Error::Locked { folder: "fill".into() }));
    assert!(matches!(refused, Err(Error::Locked { .. })));
    assert_eq!(found(&folder), 3);
}

/// A file is the old or the new one, whatever fails; after a failure nothing lies beside it.
#[test]
fn a_file_survives_any_failure() {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("file");
    for fault in [Fault::Fails as fn(usize) -> Fault, Fault::Killed] {
        let mut at = 0;
        loop {
            write_atomic(&path, b"old").unwrap();
            let (result, operations) = with_fault(fault(at), || write_atomic(&path, b"new"));
            let now = text(&path);
            assert!(now == "new" || (now == "old" && result.is_err()), "{at}: {now}");
            if fault(0) == Fault::Fails(0) {
                assert_eq!(fs::read_dir(top.path()).unwrap().count(), 1);
            }
            if operations <= at {
                break;
            }
            at += 1;
        }
        assert!(at >= 4, "{at} operations only");
    }
}

/// Writing where nothing can be written leaves neither the file nor a sibling, and the old content.
#[test]
fn a_failed_write_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("file");
    fs::write(&blocked, "old").unwrap();
    let error = write_atomic(&blocked.join("below"), b"new").unwrap_err();
    assert!(matches!(error, Error::Write { .. }), "{error}");
    fs::create_dir(folder.path().join("taken")).unwrap();
    fs::write(folder.path().join("taken/inside"), "kept").unwrap();
    let Err(Error::Write { source, .. }) = write_atomic(&folder.path().join("taken"), b"new") else {
        panic!("a folder was replaced");
    };
    assert_eq!(source.kind(), ErrorKind::IsADirectory);
    let mut left: Vec<String> =
        fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["file", "taken"]);
    write_atomic(&blocked, b"new").unwrap();
    assert_eq!(text(&blocked), "new");
}

/// The system refuses the second half of a file: the old one stays, and nothing beside it. The limit on a file's size is
/// one of the process, so that a second process of this test writes.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up() {
    const CHILD: &str = "DMD_TEST_FILLS_UP";
    if let Some(path) = std::env::var_os(CHILD) {
        let Err(Error::Write { source, .. }) = write_atomic(Path::new(&path), &[7; 4 << 20]) else {
            panic!("4 MiB were written where 1 MiB is allowed");
        };
        assert_eq!(source.kind(), ErrorKind::FileTooLarge);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "old").unwrap();
    // Blocks of 1024 bytes; without the trap the signal would end the process.
    let limited = "trap '' XFSZ; ulimit -f 1024; exec \"$0\" --exact a_disk_that_fills_up";
    let test = std::env::current_exe().unwrap();
    let status = Command::new("bash").args(["-c", limited]).arg(test).env(CHILD, &path).status().unwrap();
    assert!(status.success());
    assert_eq!(text(&path), "old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// `/dev/full` is the system's full disk, and a device: it is written into, and its refusal is an error.
#[cfg(target_os = "linux")]
#[test]
fn devices_are_written_into() {
    let Err(Error::Write { source, .. }) = write_atomic(Path::new("/dev/full"), &[0; 1 << 16]) else {
        panic!("a full disk took it");
    };
    assert_eq!(source.kind(), ErrorKind::StorageFull);
    write_atomic(Path::new("/dev/null"), b"x").unwrap();
    use std::os::unix::fs::FileTypeExt;
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}

/// Links stay links, whether they lead to a file, to a link, to nothing yet, or round in a circle; a pipe stays a pipe.
#[cfg(unix)]
#[test]
fn links_and_pipes_stay() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("gallery")).unwrap();
    fs::write(at("gallery/real"), "old").unwrap();
    symlink("gallery/real", at("link")).unwrap();
    symlink(at("link"), at("second")).unwrap();
    symlink("gallery/later", at("dangling")).unwrap();
    symlink("circle", at("circle")).unwrap();
    write_atomic(&at("second"), b"new").unwrap();
    write_atomic(&at("dangling"), b"new").unwrap();
    assert!(write_atomic(&at("circle"), b"new").is_err());
    for link in ["link", "second", "dangling", "circle"] {
        assert!(fs::symlink_metadata(at(link)).unwrap().is_symlink(), "{link}");
    }
    assert_eq!((text(&at("gallery/real")), text(&at("gallery/later"))), ("new".into(), "new".into()));
    assert_eq!(fs::read_dir(at("gallery")).unwrap().count(), 2);

    let pipe = at("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe).unwrap()
    });
    write_atomic(&pipe, b"through").unwrap();
    assert_eq!(reader.join().unwrap(), b"through");
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
}

/// A new file may be read by whom the user's mask lets read it, as any other.
#[cfg(unix)]
#[test]
fn a_file_has_the_usual_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("plain"), "").unwrap();
    write_atomic(&folder.path().join("ours"), b"").unwrap();
    let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
    assert_eq!(mode("plain"), mode("ours"));
}

/// One holder at a time, named by its folder; given back with the value.
#[test]
fn a_folder_has_one_writer() {
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("run");
    let lock = FolderLock::take(&folder).unwrap();
    let refused = FolderLock::take(&folder).unwrap_err();
    assert!(matches!(refused, Error::Locked { .. }));
    assert!(
        refused.to_string().contains("run") && refused.to_string().contains("another process"),
        "{refused}"
    );
    drop(lock);
    let _again = FolderLock::take(&folder).unwrap();
    let _other = FolderLock::take(&top.path().join("other")).unwrap();
}
