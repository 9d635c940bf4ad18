//! `dmd serve`: it says where it listens, answers, and stops when it is asked to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{refused, succeeds};
use crate::browser::Browser;

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

/// The pixels of a picture of the page, as a PNG in base64.
const PIXELS: &str =
    "const image = document.getElementById('one'); const canvas = document.createElement('canvas');
    canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
    canvas.getContext('2d').drawImage(image, 0, 0); return canvas.toDataURL('image/png').split(',')[1];";

/// The page shows the picture of what stands in its fields: as it is opened, after typing, and again from the history; its pixels
/// are those that `dmd generate` writes.
#[test]
fn the_page_draws_what_is_typed() {
    let here = tempfile::tempdir().unwrap();
    let Some(browser) = Browser::start(&here.path().join("profile")) else { return };
    let (_serving, address) = started(here.path());
    let expected = |prompt: &str, seed: &str| {
        let model = ["--model", "embedded:/dmd-shapes", "--out", "expected.png"];
        succeeds(here.path(), &[&["generate", prompt, "--seed", seed], &model[..]].concat());
        image::open(here.path().join("expected.png")).unwrap().to_rgb8()
    };
    let shows = |prompt: &str, seed: &str| {
        // The newest picture is there, and not one of what was typed before.
        browser.until(&format!(
            "const image = document.getElementById('one'); return image.complete && image.alt === {prompt:?} \
             && !image.classList.contains('old') && document.getElementById('seed').value === {seed:?}"
        ));
        let png = STANDARD.decode(browser.run(PIXELS).as_str().unwrap()).unwrap();
        let found = image::load_from_memory(&png).unwrap().to_rgb8();
        // A request may be drawn beside an older one, and is then rounded differently.
        let expected = expected(prompt, seed);
        let worst = found.as_raw().iter().zip(expected.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(
            found.dimensions() == expected.dimensions() && worst <= 1,
            "{prompt:?}, seed {seed}: {worst} apart"
        );
    };
    browser.open(&format!("http://{address}/"));
    shows("a red circle above a blue square", "7");
    let says = browser.run("return document.getElementById('one-says').textContent");
    assert!(says.as_str().unwrap().starts_with("1 step: "), "{says}");
    // A picture that stands for a moment is kept.
    browser.until("return document.querySelectorAll('#history img').length === 1");
    browser.write("#prompt", "a green triangle");
    browser.write("#seed", "12");
    shows("a green triangle", "12");
    browser.until("return document.querySelectorAll('#history img').length === 2");
    browser.run("document.querySelector('#history li:last-child button').click()");
    shows("a red circle above a blue square", "7");
    browser.write("#prompt", " ");
    browser.until("return document.getElementById('status').textContent === 'Say what to draw.'");
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
    assert!(said(&["--waiting", "0"]).contains("--waiting must be at least 1"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let here = refused(here.path(), &["serve", "--model", "embedded:/dmd-shapes", "--port", &port]);
    assert!(here.contains("cannot listen on 127.0.0.1"), "{here}");
}
