//! How long is waited: for a server that fails, asks for time or is silent, and for another process.

use std::fs;
use std::ops::ControlFlow;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use dmd_hub::{Error, Hub, Repository};
use tempfile::tempdir;

use crate::fake::{FakeHub, Fault, etag, fetch, fetch_file};
use crate::{WEIGHTS, assert_nothing_half, assert_whole};

/// What `call` answers. The test fails where that takes longer than a minute; the call is then left to itself.
#[track_caller]
fn within_a_minute<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(call()));
    match receiver.recv_timeout(Duration::from_secs(60)) {
        Ok(answer) => answer,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the call waits for longer than a minute"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("the call panicked"),
    }
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
        let here = hub.client(home.path(), &[]);
        let start = Instant::now();
        within_a_minute(move || fetch_file(&here, "unet/config.json")).unwrap();
        assert!(start.elapsed() >= Duration::from_secs(1));
    }
    // An hour is not waited for, and a wait can be cancelled.
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    hub.fault("/revision/", Fault::Status(429, "Retry-After: 3600\r\n"));
    let here = hub.client(home.path(), &[]);
    let result = within_a_minute(move || fetch(&here, "org/model"));
    assert!(matches!(result, Err(Error::Status { status: 429, .. })));
    hub.fault("/revision/", Fault::Status(429, "Retry-After: 300\r\n"));
    let here = hub.client(home.path(), &[]);
    let start = Instant::now();
    let result = within_a_minute(move || {
        here.fetch(
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
        )
    });
    assert!(matches!(result, Err(Error::Cancelled)));
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
