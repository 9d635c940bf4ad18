//! `dmd serve`: it says where it listens, answers, and stops when it is asked to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
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

#[test]
fn a_server_answers_and_stops() {
    let here = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmd"));
    command.current_dir(here.path()).args(["serve", "--port", "0", "--model", "embedded:/dmd-shapes"]);
    let mut serving = Serving(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(serving.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{line}");
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
    assert!(said(&["--token", "none"]).contains("none"));
    assert!(said(&["--waiting", "0"]).contains("--waiting 0"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let here = refused(here.path(), &["serve", "--model", "embedded:/dmd-shapes", "--port", &port]);
    assert!(here.contains("cannot listen on 127.0.0.1"), "{here}");
}
