//! Model folders in the program's memory, which are read through paths like folders on the disk. Their files are a part
//! of the program, or bytes that the program received at run time.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;

/// First component of the path of every file that is a part of the program.
const ROOT: &str = "embedded:";
/// Beginning of the first path component of every other file in memory. A number follows it.
const MEMORY: &str = "memory:";

/// All folders in memory, by path.
static FOLDERS: RwLock<BTreeMap<PathBuf, Folder>> = RwLock::new(BTreeMap::new());

/// A folder in memory: its files by name, with `/` between folders.
struct Folder {
    files: BTreeMap<String, Bytes>,
    /// The folder of the program that the files come from; `None` for a [`MemoryFolder`].
    embedded: Option<&'static EmbeddedFolder>,
}

/// A folder that is a part of the program: names of files, with `/` between folders, and their bytes. [`MemoryFolder`]
/// is for bytes that a program receives at run time.
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
    /// The folder's name, which must be unique in the program.
    pub name: &'static str,
    /// The files: name and bytes of each.
    pub files: &'static [(&'static str, &'static [u8])],
}

impl EmbeddedFolder {
    /// The path of this folder. All reading functions of this crate accept it, although the folder is not on the disk.
    ///
    /// # Panics
    ///
    /// If another folder has the same name.
    pub fn path(&'static self) -> PathBuf {
        let path = Path::new(ROOT).join(self.name);
        let mut folders = FOLDERS.write().unwrap_or_else(PoisonError::into_inner);
        let folder = folders.entry(path.clone()).or_insert_with(|| {
            let files =
                self.files.iter().map(|(name, bytes)| ((*name).to_owned(), Bytes::from_static(bytes)));
            Folder { files: files.collect(), embedded: Some(self) }
        });
        let same = folder.embedded.is_some_and(|known| std::ptr::eq(known, self));
        // Release the lock first, so that a panic does not poison it.
        drop(folders);
        assert!(same, "two embedded folders {:?}", self.name);
        path
    }
}

/// A folder of files whose bytes a program received at run time, over the network or from an archive. Its path is valid
/// as long as this value exists. Values that were opened through the path keep the bytes that they need.
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
    /// Makes a folder of files, each with its name, such as `vae/config.json`, with `/` between folders. If two files
    /// have the same name, the second is used.
    pub fn new(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let path = PathBuf::from(format!("{MEMORY}{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let files = files.into_iter().map(|(name, bytes)| (name, Bytes::from(bytes))).collect();
        let mut folders = FOLDERS.write().unwrap_or_else(PoisonError::into_inner);
        folders.insert(path.clone(), Folder { files, embedded: None });
        Self { path }
    }

    /// The path of this folder. All reading functions of this crate accept it, although the folder is not on the disk.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for MemoryFolder {
    fn drop(&mut self) {
        FOLDERS.write().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
    }
}

/// Finds the folder in memory that contains `path`, and calls `look` with the folder and the rest of the path.
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

/// The bytes of a file in memory, or `None` for any other path.
pub(crate) fn bytes(path: &Path) -> Option<Bytes> {
    inside(path, |folder, name| folder.files.get(name).cloned())
}

/// Returns an error for a path into a folder in memory. Call it when [`bytes()`] has not found the file. A path on the
/// disk is no error.
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

/// Reads the text of a file on the disk or in memory.
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

    /// A folder in memory disappears when its value is dropped. What was read from it stays valid, and another folder
    /// gets another path.
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
