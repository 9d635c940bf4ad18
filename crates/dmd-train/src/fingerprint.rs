//! What earlier work was made from, so that it is not taken for the work of other settings.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::Error;

/// What an artefact of a run depends on, by name: options of the configuration, hashes of files. Two artefacts are of
/// the same settings when their fingerprints are equal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(BTreeMap<String, Value>);

impl Fingerprint {
    /// Nothing that anything could depend on.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a number, a text, or a whole section of a configuration, whose options get names such as
    /// `matching.first_timestep`.
    ///
    /// # Errors
    ///
    /// [`Error::Fingerprint`] when the value has no JSON form.
    pub fn with(mut self, name: &str, value: impl Serialize) -> Result<Self, Error> {
        let value = serde_json::to_value(value)
            .map_err(|error| Error::Fingerprint { name: name.to_owned(), reason: error.to_string() })?;
        self.insert(name.to_owned(), value);
        Ok(self)
    }

    fn insert(&mut self, name: String, value: Value) {
        match value {
            Value::Object(options) => {
                for (key, value) in options {
                    let name = if name.is_empty() { key } else { format!("{name}.{key}") };
                    self.insert(name, value);
                }
            }
            Value::Null => {} // left out of a configuration
            value => {
                self.0.insert(name, value);
            }
        }
    }

    /// Leaves out names, each with everything below it: options that may change between two runs.
    pub(crate) fn without(mut self, names: &[&str]) -> Self {
        self.0.retain(|key, _| {
            !names.iter().any(|name| {
                key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
        });
        self
    }

    /// This and another fingerprint.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Eight hexadecimal digits of the whole, for file names.
    pub(crate) fn short(&self) -> String {
        hex(&Sha256::digest(self.text()))[..8].to_owned()
    }

    /// The whole as a text.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() // a map of JSON values has a JSON form
    }

    /// The first difference to an earlier fingerprint: the name, the earlier value and the present one.
    pub(crate) fn difference(&self, earlier: &Self) -> Option<(String, String, String)> {
        let names = self.0.keys().chain(earlier.0.keys());
        let shown = |value: Option<&Value>| value.map_or("left out".to_owned(), Value::to_string);
        let differs = |name: &&String| self.0.get(*name) != earlier.0.get(*name);
        let name = names.filter(differs).min()?;
        Some((name.clone(), shown(earlier.0.get(name)), shown(self.0.get(name))))
    }
}

/// The SHA-256 of the content of files, and of all files in folders, in hexadecimal digits. Where a path lies does not
/// count, the names inside a folder do; a path that does not exist counts as absent.
///
/// # Errors
///
/// [`dmd_weights::Error::Read`] when a path cannot be looked into.
pub fn of_files(paths: &[PathBuf]) -> Result<String, Error> {
    let mut hash = Sha256::new();
    for path in paths {
        add(&mut hash, path, "")?;
    }
    Ok(hex(&hash.finalize()))
}

/// Adds a file or folder, which has the name `inside` within the folder that is hashed.
fn add(hash: &mut Sha256, path: &Path, inside: &str) -> Result<(), Error> {
    let failed = |source| Error::from(dmd_weights::Error::Read { path: path.to_owned(), source });
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            hash.update(b"absent");
            return Ok(());
        }
        metadata => metadata.map_err(failed)?,
    };
    if metadata.is_dir() {
        let entries = fs::read_dir(path).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let mut names: Vec<_> = entries.into_iter().map(|entry| entry.file_name()).collect();
        names.sort();
        return names.iter().try_for_each(|name| {
            add(hash, &path.join(name), &format!("{inside}/{}", name.to_string_lossy()))
        });
    }
    let mut file = fs::File::open(path).map_err(failed)?;
    hash.update((inside.len() as u64).to_le_bytes());
    hash.update(inside);
    hash.update(metadata.len().to_le_bytes());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(()),
            count => hash.update(&buffer[..count]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A small file beside an artefact that records what the artefact was made from.
#[derive(Debug)]
pub struct Made {
    path: PathBuf,
    made_from: Fingerprint,
}

impl Made {
    /// The record at `path` of something made from present settings.
    pub fn new(path: PathBuf, made_from: Fingerprint) -> Self {
        Self { path, made_from }
    }

    /// Whether the file exists and records these settings.
    ///
    /// # Errors
    ///
    /// [`dmd_weights::Error::Read`] or a message of the parser when the file exists and cannot be read.
    pub fn stands(&self) -> Result<bool, Error> {
        if !self.path.is_file() {
            return Ok(false);
        }
        let earlier: Fingerprint = dmd_weights::read_json(&self.path)?;
        Ok(earlier == self.made_from)
    }

    /// Writes the file, once the artefact is whole.
    ///
    /// # Errors
    ///
    /// [`dmd_weights::Error::Write`] when it cannot be written.
    pub fn write(&self) -> Result<(), Error> {
        Ok(dmd_weights::write_json(&self.path, &self.made_from)?)
    }
}
