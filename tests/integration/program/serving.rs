//! `dmd serve`: it says where it listens, answers, and stops when it is asked to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::refused;

/// A started server, killed if a test fails.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _waited = self.0.wait();
    }
}

/// What a server answers to a request without a body.
fn asked(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A server with the small model, and where it says that it listens.
fn started(here: &Path) -> (Serving, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmd"));
    command.current_dir(here).args(["serve", "--port", "0", "--model", "embedded:/dmd-shapes"]);
    let mut serving = Serving(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(serving.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").unwrap().to_owned();
    (serving, address)
}

#[test]
fn a_server_answers_and_stops() {
    let here = tempfile::tempdir().unwrap();
    let (mut serving, address) = started(here.path());
    let address = address.as_str();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    assert!(asked(address, "/health").contains("\"status\":\"ok\""));
    assert!(asked(address, "/").contains("A picture while you type"));
    assert!(asked(address, "/models").contains("dmd-shapes"));
    #[cfg(unix)]
    {
        let id = serving.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert!(serving.0.wait().unwrap().success(), "a stop that was asked for is no failure");
        let mut said = String::new();
        serving.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "", "it has nothing to say");
    }
}

/// The page in a browser, where there is one: it asks for the picture of the prompt that it starts with, and shows its times. The
/// program `chromium` is looked for on the PATH.
#[test]
fn the_page_draws() {
    let version = Command::new("chromium").arg("--version").output();
    if !version.is_ok_and(|version| version.status.success()) {
        eprintln!("chromium is not here: the page is NOT checked in a browser");
        return;
    }
    let here = tempfile::tempdir().unwrap();
    let (_serving, address) = started(here.path());
    let mut browser = Command::new("chromium");
    browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--dump-dom"]);
    browser.arg(format!("--user-data-dir={}", here.path().join("profile").display()));
    let page = browser.arg(format!("http://{address}/")).output().unwrap();
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    for part in ["alt=\"a red circle above a blue square\"", "src=\"blob:http://", "1 step: ", " ms to draw"]
    {
        assert!(page.contains(part), "{part:?} is not in {page}");
    }
    assert!(asked(&address, "/metrics").contains("dmd_requests_answered_total 1\n"));
}

#[test]
fn servers_that_are_refused() {
    let here = tempfile::tempdir().unwrap();
    let said = |arguments: &[&str]| {
        refused(
            here.path(),
            &[&["serve", "--model", "embedded:/dmd-shapes", "--port", "0"], arguments].concat(),
        )
    };
    let open = said(&["--host", "0.0.0.0"]);
    assert!(open.contains("--token FILE") && open.contains("--open"), "{open}");
    std::fs::write(here.path().join("token"), "short\n").unwrap();
    assert!(said(&["--token", "token"]).contains("5 bytes"));
    std::fs::write(here.path().join("two"), "two words here\n").unwrap();
    assert!(said(&["--token", "two"]).contains("one word"));
    assert!(said(&["--token", "none"]).contains("none"));
    assert!(said(&["--allow-origin", "*"]).contains("no origin"));
    assert!(said(&["--waiting", "0"]).contains("--waiting 0"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let here = refused(here.path(), &["serve", "--model", "embedded:/dmd-shapes", "--port", &port]);
    assert!(here.contains("cannot listen on 127.0.0.1"), "{here}");
}
