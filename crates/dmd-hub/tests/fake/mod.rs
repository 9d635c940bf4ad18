//! A hub on the loopback device that answers as the real one does, or wrongly, as a test asks for.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use dmd_hub::{Error, Hub, Repository, Selection, Snapshot};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

/// The commit of the repository's `main`.
pub const COMMIT: &str = "1111111111111111111111111111111111111111";

/// The token that opens what is gated.
pub const TOKEN: &str = "hf_good";

/// What goes wrong with one answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection ends after so many bytes of the content.
    Cut(usize),
    /// Nothing more comes after so many bytes.
    Stall(usize, Duration),
    /// The content comes in pieces with this pause between them.
    Slow(Duration),
    /// A status, with headers.
    Status(u16, &'static str),
    /// The first byte of the content is another one.
    WrongByte,
    /// The content is longer or shorter than is listed.
    WrongLength(i64),
    /// A length is not said, and the content is too long.
    TooLong,
    /// The whole file, although a part was asked for.
    NoRange,
    /// The range begins elsewhere than it was asked for.
    OtherRange,
    /// Other text in the place of the right one.
    Text(String),
    /// A redirect.
    Redirect(String),
}

/// A request that was made.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
    /// Whether it came to the second host.
    pub second: bool,
}

#[derive(Default)]
pub struct State {
    pub files: BTreeMap<String, Vec<u8>>,
    /// Names of branches and tags.
    pub revisions: BTreeMap<String, String>,
    pub gated: bool,
    /// Elements per page of a list.
    pub page: usize,
    /// Faults by a part of the path, used up one after the other.
    pub faults: Vec<(String, Fault)>,
    pub requests: Vec<Request>,
    pub first: String,
    pub second: String,
}

pub struct FakeHub {
    state: Arc<Mutex<State>>,
    pub endpoint: String,
}

/// Larger files are LFS files.
pub const LFS: usize = 1000;

pub fn is_lfs(bytes: &[u8]) -> bool {
    bytes.len() >= LFS
}

pub fn etag(bytes: &[u8]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    if is_lfs(bytes) {
        hex(&Sha256::digest(bytes))
    } else {
        hex(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
    }
}

impl FakeHub {
    /// A hub with the repository `org/model`.
    pub fn new() -> Self {
        let state = Arc::new(Mutex::new(State { page: 3, ..State::default() }));
        let mut hub = Self { state: Arc::clone(&state), endpoint: String::new() };
        let first = hub.listen("127.0.0.1", false);
        let second = hub.listen("localhost", true);
        hub.endpoint.clone_from(&first);
        let mut locked = hub.state();
        (locked.first, locked.second) = (first, second);
        locked.revisions.insert("main".to_owned(), COMMIT.to_owned());
        let weights: Vec<u8> =
            (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for (path, bytes) in [
            ("README.md", b"# Model\n".to_vec()),
            ("model_index.json", br#"{"_class_name":"StableDiffusionPipeline"}"#.to_vec()),
            ("scheduler/scheduler_config.json", b"{}".to_vec()),
            ("tokenizer/merges.txt", b"".to_vec()),
            ("tokenizer/vocab.json", vec![b'v'; 5000]),
            ("unet/config.json", br#"{"in_channels":4}"#.to_vec()),
            ("unet/diffusion_pytorch_model.safetensors", weights),
            ("unet/diffusion_pytorch_model.bin", vec![7; 2000]),
            ("vae/config.json", b"{}".to_vec()),
            ("vae/diffusion_pytorch_model.safetensors", vec![9; 40_000]),
        ] {
            locked.files.insert(path.to_owned(), bytes);
        }
        drop(locked);
        hub
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Lets something go wrong with the next request whose path contains `part`.
    pub fn fault(&self, part: &str, fault: Fault) {
        self.state().faults.push((part.to_owned(), fault));
    }

    /// The requests since the last call.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().requests)
    }

    /// A client of this hub with a cache of its own.
    pub fn client(&self, cache: &Path, more: &[(&str, &str)]) -> Hub {
        client(&self.endpoint, cache, more)
    }

    fn listen(&self, host: &str, second: bool) -> String {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let endpoint = format!("http://{host}:{}", listener.local_addr().unwrap().port());
        let state = Arc::clone(&self.state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                thread::spawn(move || answer(stream, &state, second));
            }
        });
        endpoint
    }
}

/// A client with a cache of its own, and no other settings than those given.
pub fn client(endpoint: &str, cache: &Path, more: &[(&str, &str)]) -> Hub {
    let variable = |name: &str| {
        let given = more.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        given.or_else(|| match name {
            "HF_ENDPOINT" => Some(endpoint.to_owned()),
            "HF_HOME" => Some(cache.to_str().unwrap().to_owned()),
            _ => None,
        })
    };
    Hub::from_variables(variable).unwrap().with_retry_pause(Duration::from_millis(1))
}

/// Everything a diffusion model needs of `text`.
pub fn fetch(hub: &Hub, text: &str) -> Result<Snapshot, Error> {
    use dmd_hub::{Variant, diffusers_selection};
    hub.fetch(
        &Repository::parse(text).unwrap(),
        |entries| diffusers_selection(entries, Variant::Full),
        |_| std::ops::ControlFlow::Continue(()),
    )
}

/// One file of `org/model`.
pub fn fetch_file(hub: &Hub, file: &str) -> Result<Snapshot, Error> {
    let choose = |entries: &[dmd_hub::Entry]| Ok(Selection::matching(entries, &[file]));
    hub.fetch(&Repository::parse("org/model").unwrap(), choose, |_| std::ops::ControlFlow::Continue(()))
}

fn answer(stream: TcpStream, state: &Mutex<State>, second: bool) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut request = Request { path, range: None, token: None, second };
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "range" => request.range = Some(value.to_owned()),
                "authorization" => request.token = value.strip_prefix("Bearer ").map(str::to_owned),
                _ => {}
            }
        }
        let (response, fault) = {
            let mut state = state.lock().unwrap();
            state.requests.push(request.clone());
            let at = state.faults.iter().position(|(part, _)| request.path.contains(part.as_str()));
            let fault = at.map(|at| state.faults.remove(at).1);
            (respond(&state, &request, fault.as_ref()), fault)
        };
        if !send(&stream, response, fault) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

struct Response {
    status: u16,
    headers: String,
    body: Vec<u8>,
    /// What the header says.
    length: Option<usize>,
}

fn response(status: u16, headers: impl Into<String>, body: impl Into<Vec<u8>>) -> Response {
    let body = body.into();
    Response { status, headers: headers.into(), length: Some(body.len()), body }
}

/// Sends an answer; whether the connection goes on.
fn send(mut stream: &TcpStream, response: Response, fault: Option<Fault>) -> bool {
    let length = response.length.map(|length| format!("Content-Length: {length}\r\n")).unwrap_or_default();
    let head = format!("HTTP/1.1 {} X\r\n{length}{}\r\n", response.status, response.headers);
    let mut write = |bytes: &[u8]| stream.write_all(bytes).and_then(|()| stream.flush()).is_ok();
    let mut body = response.body.as_slice();
    match fault {
        Some(Fault::Cut(bytes)) => {
            write(head.as_bytes());
            write(&body[..bytes.min(body.len())]);
            return false;
        }
        Some(Fault::Stall(bytes, pause)) => {
            write(head.as_bytes());
            write(&body[..bytes.min(body.len())]);
            thread::sleep(pause);
            return false;
        }
        Some(Fault::Slow(pause)) => {
            write(head.as_bytes());
            while !body.is_empty() {
                let (piece, rest) = body.split_at(body.len().min(100_000));
                if !write(piece) {
                    return false;
                }
                thread::sleep(pause);
                body = rest;
            }
            return true;
        }
        _ => {}
    }
    write(head.as_bytes()) && write(body) && response.length.is_some()
}

fn respond(state: &State, request: &Request, fault: Option<&Fault>) -> Response {
    match fault {
        Some(Fault::Status(status, headers)) => return response(*status, *headers, "no"),
        Some(Fault::Redirect(target)) => return response(302, format!("Location: {target}\r\n"), ""),
        Some(Fault::Text(text)) => return response(200, "", text.as_str()),
        _ => {}
    }
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    if request.second {
        let path = decode(path.trim_start_matches("/cdn/"));
        return content(&state.files[&path], request.range.as_deref(), fault);
    }
    let refused = state.gated && request.token.as_deref() != Some(TOKEN);
    if request.token.as_deref().is_some_and(|token| token != TOKEN) && !state.gated {
        return response(401, "X-Error-Message: Invalid credentials in Authorization header\r\n", "");
    }
    let gate = || {
        let status = if request.token.is_some() { 403 } else { 401 };
        response(status, "X-Error-Code: GatedRepo\r\nX-Error-Message: Access is restricted.\r\n", "")
    };
    if let Some(rest) = path.strip_prefix("/api/models/org/model/") {
        if let Some(revision) = rest.strip_prefix("revision/") {
            return match state.revisions.get(&decode(revision)) {
                Some(commit) => {
                    response(200, "", format!(r#"{{"id":"org/model","sha":"{commit}","siblings":[]}}"#))
                }
                None => response(404, "X-Error-Code: RevisionNotFound\r\n", "{}"),
            };
        }
        if let Some(commit) = rest.strip_prefix("tree/") {
            if !state.revisions.values().any(|known| known == commit) {
                return response(404, "X-Error-Code: RevisionNotFound\r\n", "{}");
            }
            return tree(state, commit, query);
        }
    }
    if let Some(rest) = path.strip_prefix("/org/model/resolve/") {
        let (commit, file) = rest.split_once('/').unwrap();
        let file = decode(file);
        if refused {
            return gate();
        }
        let Some(bytes) = state.files.get(&file) else {
            return response(404, "X-Error-Code: EntryNotFound\r\n", "Entry not found");
        };
        let etag = etag(bytes);
        if is_lfs(bytes) {
            let location = format!("{}/cdn/{}", state.second, encode(&file));
            let size = bytes.len();
            let headers = format!(
                "Location: {location}\r\nX-Linked-Etag: \"{etag}\"\r\nX-Linked-Size: {size}\r\nX-Repo-Commit: {commit}\r\n"
            );
            return response(302, headers, "Found.");
        }
        return response(
            307,
            format!("Location: /api/resolve-cache/models/org/model/{commit}/{}\r\n", encode(&file)),
            "",
        );
    }
    if let Some(rest) = path.strip_prefix("/api/resolve-cache/models/org/model/") {
        let (_, file) = rest.split_once('/').unwrap();
        return content(&state.files[&decode(file)], request.range.as_deref(), fault);
    }
    // What is private and what does not exist look the same.
    response(401, "X-Error-Code: RepoNotFound\r\nX-Error-Message: Invalid username or password.\r\n", "")
}

/// A page of the list of files.
fn tree(state: &State, commit: &str, query: &str) -> Response {
    let start: usize =
        query.split('&').find_map(|part| part.strip_prefix("cursor=")).map_or(0, |n| n.parse().unwrap());
    let mut nodes: Vec<String> =
        vec![format!(r#"{{"type":"directory","oid":"{COMMIT}","size":0,"path":"unet"}}"#)];
    for (path, bytes) in &state.files {
        let (etag, size) = (etag(bytes), bytes.len());
        let path = path.replace('\\', "\\\\");
        nodes.push(if is_lfs(bytes) {
            format!(
                r#"{{"type":"file","oid":"{COMMIT}","size":{size},"path":"{path}",
                    "lfs":{{"oid":"{etag}","size":{size},"pointerSize":130}}}}"#
            )
        } else {
            format!(r#"{{"type":"file","oid":"{etag}","size":{size},"path":"{path}"}}"#)
        });
    }
    let end = (start + state.page).min(nodes.len());
    let next = if end < nodes.len() {
        let url = format!("{}/api/models/org/model/tree/{commit}?recursive=true&cursor={end}", state.first);
        format!("Link: <{url}>; rel=\"next\"\r\n")
    } else {
        String::new()
    };
    response(200, next, format!("[{}]", nodes[start..end].join(",")))
}

/// A file's content, or the part that is asked for.
fn content(bytes: &[u8], range: Option<&str>, fault: Option<&Fault>) -> Response {
    let mut bytes = bytes.to_vec();
    let total = bytes.len();
    match fault {
        Some(Fault::WrongByte) => bytes[0] ^= 1,
        Some(Fault::WrongLength(by)) => bytes.resize((total as i64 + by) as usize, 0),
        Some(Fault::TooLong) => {
            bytes.push(0);
            let mut response = response(200, "", bytes);
            response.length = None;
            return response;
        }
        _ => {}
    }
    let from: usize =
        range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0);
    match fault {
        Some(Fault::NoRange) => response(200, "", bytes),
        Some(Fault::OtherRange) => {
            response(206, format!("Content-Range: bytes 0-{}/{total}\r\n", total - 1), bytes)
        }
        _ if from == 0 => response(200, "", bytes),
        _ if from >= total => response(416, format!("Content-Range: bytes */{total}\r\n"), ""),
        _ => {
            let range = format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1);
            response(206, range, bytes[from..].to_vec())
        }
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
