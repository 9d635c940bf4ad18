//! A hub on the loopback device that answers as the real one does, or wrongly, as a test asks for.

mod answers;
mod connection;

use std::collections::BTreeMap;
use std::net::TcpListener;
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
                thread::spawn(move || connection::serve(stream, &state, second));
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
