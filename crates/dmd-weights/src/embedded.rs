//! Model folders in the program's memory, read by paths as folders on the disk are: a part of the program, or bytes that it
//! got while it runs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;

/// The first component of the path of every file that is a part of the program.
const ROOT: &str = "embedded:";
/// What the first component of the path of every other file in memory begins with; a number follows.
const MEMORY: &str = "memory:";

/// The folders that have a path, by that path.
static FOLDERS: RwLock<BTreeMap<PathBuf, Folder>> = RwLock::new(BTreeMap::new());

/// The files of a folder by their names, with `/` between folders.
struct Folder {
    files: BTreeMap<String, Bytes>,
    /// Whose files they are, for those of the program.
    embedded: Option<&'static EmbeddedFolder>,
}

/// A folder in the program's own memory: names of files, with `/` between folders, and their bytes. [`MemoryFolder`] is for
/// bytes that a program gets while it runs.
///
/// ```
/// use dmd_weights::EmbeddedFolder;
///
/// static MODEL: EmbeddedFolder = EmbeddedFolder { name: "example", files: &[("vae/config.json", b"{\"a\": 1}")] };
/// let path = MODEL.path();
/// let config: serde_json::Value = dmd_weights::read_config(&path.join("vae"))?;
/// assert_eq!(config["a"], 1);
/// # Ok::<(), dmd_weights::Error>(())
/// ```
#[derive(Debug)]
pub struct EmbeddedFolder {
    /// A name that no other folder of the program has.
    pub name: &'static str,
    /// Its files.
    pub files: &'static [(&'static str, &'static [u8])],
}

impl EmbeddedFolder {
    /// A path that every function of this crate which reads takes for this folder. Nothing of it is on the disk.
    ///
    /// # Panics
    ///
    /// If another folder has the name.
    pub fn path(&'static self) -> PathBuf {
        let path = Path::new(ROOT).join(self.name);
        let mut folders = FOLDERS.write().unwrap_or_else(PoisonError::into_inner);
        let folder = folders.entry(path.clone()).or_insert_with(|| {
            let files =
                self.files.iter().map(|(name, bytes)| ((*name).to_owned(), Bytes::from_static(bytes)));
            Folder { files: files.collect(), embedded: Some(self) }
        });
        let same = folder.embedded.is_some_and(|known| std::ptr::eq(known, self));
        // Outside the lock's life, so that a panic does not hold it.
        drop(folders);
        assert!(same, "two embedded folders {:?}", self.name);
        path
    }
}

/// A folder of files whose bytes a program got while it runs: fetched over the network, or taken from an archive. It has a path
/// as long as this value exists. What was opened through the path keeps the bytes that it needs.
///
/// ```
/// use dmd_weights::MemoryFolder;
///
/// let folder = MemoryFolder::new([("vae/config.json".to_owned(), b"{\"a\": 1}".to_vec())]);
/// let config: serde_json::Value = dmd_weights::read_config(&folder.path().join("vae"))?;
/// assert_eq!(config["a"], 1);
/// # Ok::<(), dmd_weights::Error>(())
/// ```
#[derive(Debug)]
pub struct MemoryFolder {
    path: PathBuf,
}

impl MemoryFolder {
    /// The files by their names, with `/` between folders, such as `vae/config.json`. Of two files with one name the second
    /// counts.
    pub fn new(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let path = PathBuf::from(format!("{MEMORY}{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let files = files.into_iter().map(|(name, bytes)| (name, Bytes::from(bytes))).collect();
        let mut folders = FOLDERS.write().unwrap_or_else(PoisonError::into_inner);
        folders.insert(path.clone(), Folder { files, embedded: None });
        Self { path }
    }

    /// A path that every function of this crate which reads takes for this folder. Nothing of it is on the disk.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for MemoryFolder {
    fn drop(&mut self) {
        FOLDERS.write().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
    }
}

/// What `look` finds in the folder in memory that a path leads into, given the name below it.
fn inside<T>(path: &Path, look: impl FnOnce(&Folder, &str) -> Option<T>) -> Option<T> {
    let first = path.components().next()?.as_os_str().to_str()?;
    if first != ROOT && !first.starts_with(MEMORY) {
        return None;
    }
    let folders = FOLDERS.read().unwrap_or_else(PoisonError::into_inner);
    let (root, folder) = path.ancestors().find_map(|above| folders.get_key_value(above))?;
    let below = path.strip_prefix(root).ok()?.components().map(|name| name.as_os_str().to_str());
    look(folder, &below.collect::<Option<Vec<_>>>()?.join("/"))
}

/// The bytes of a file in memory; `None` for any other path.
pub(crate) fn bytes(path: &Path) -> Option<Bytes> {
    inside(path, |folder, name| folder.files.get(name).cloned())
}

/// The error of a path into memory that leads to no file there; a path on the disk has none.
pub(crate) fn missing(path: &Path) -> io::Result<()> {
    match inside(path, |_, _| Some(())) {
        Some(()) => Err(io::Error::new(io::ErrorKind::NotFound, "it is not among the files in memory")),
        None => Ok(()),
    }
}

/// Whether a path is a file, on the disk or in memory.
pub fn is_file(path: &Path) -> bool {
    bytes(path).is_some() || path.is_file()
}

/// Whether a path is a folder, on the disk or in memory.
pub fn is_dir(path: &Path) -> bool {
    let in_memory = inside(path, |folder, name| {
        let below = |file: &String| file.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
        (name.is_empty() || folder.files.keys().any(below)).then_some(())
    });
    in_memory.is_some() || path.is_dir()
}

/// A file's text, on the disk or in memory.
///
/// # Errors
///
/// As [`fs::read_to_string`].
pub fn read_to_string(path: &Path) -> io::Result<String> {
    match bytes(path) {
        Some(bytes) => String::from_utf8(bytes.to_vec())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        None => missing(path).and_then(|()| fs::read_to_string(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static FOLDER: EmbeddedFolder =
        EmbeddedFolder { name: "of the tests", files: &[("a.txt", b"one"), ("b/c.txt", b"two")] };

    #[test]
    fn files_and_folders() {
        assert_eq!(FOLDER.path(), FOLDER.path());
        let files = FOLDER.files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()));
        let folder = MemoryFolder::new(files);
        for path in [FOLDER.path(), folder.path().to_owned()] {
            check(&path);
        }
        assert!(!is_dir(&Path::new(ROOT).join("another")) && !is_dir(Path::new(ROOT)));
    }

    /// A folder in memory goes away with its value; what was read of it stays, and another one has another path.
    #[test]
    fn a_folder_in_memory_ends() {
        let folder = |text: &[u8]| MemoryFolder::new([("a.txt".to_owned(), text.to_vec())]);
        let (first, second) = (folder(b"one"), folder(b"two"));
        let file = first.path().join("a.txt");
        let kept = bytes(&file).expect("it is there");
        drop(first);
        assert!(!is_file(&file) && read_to_string(&file).is_err());
        assert_eq!(&kept[..], b"one");
        assert_eq!(read_to_string(&second.path().join("a.txt")).expect("it is there"), "two");
    }

    fn check(path: &Path) {
        assert_eq!(read_to_string(&path.join("b").join("c.txt")).expect("it is there"), "two");
        assert!(is_file(&path.join("a.txt")) && is_dir(path) && is_dir(&path.join("b")));
        for wrong in ["b/c", "a", "b/c.txt/d", "c.txt", "../a.txt"] {
            let wrong = path.join(wrong);
            assert!(!is_file(&wrong) && !is_dir(&wrong), "{wrong:?}");
            let error = read_to_string(&wrong).expect_err("nothing is there");
            assert_eq!(error.to_string(), "it is not among the files in memory", "{wrong:?}");
        }
    }
}
