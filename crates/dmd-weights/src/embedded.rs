//! Model folders that are a part of the program, read by paths as folders on the disk are.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{PoisonError, RwLock};

/// The first component of the path of every file in a program.
const ROOT: &str = "embedded:";

/// Folders whose paths were asked for.
static FOLDERS: RwLock<Vec<&'static EmbeddedFolder>> = RwLock::new(Vec::new());

/// A folder in the program's own memory: names of files, with `/` between folders, and their bytes.
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
        let mut folders = FOLDERS.write().unwrap_or_else(PoisonError::into_inner);
        match folders.iter().find(|known| known.name == self.name) {
            Some(known) => assert!(std::ptr::eq(*known, self), "two embedded folders {:?}", self.name),
            None => folders.push(self),
        }
        Path::new(ROOT).join(self.name)
    }
}

/// The folder in the program that a path leads into, and the names below it.
fn inside(path: &Path) -> Option<(&'static EmbeddedFolder, String)> {
    let mut components = path.components().map(Component::as_os_str);
    if components.next()? != ROOT {
        return None;
    }
    let name = components.next()?;
    let folders = FOLDERS.read().unwrap_or_else(PoisonError::into_inner);
    let folder = folders.iter().find(|folder| name == folder.name)?;
    let below: Vec<&str> = components.map(|name| name.to_str()).collect::<Option<_>>()?;
    Some((folder, below.join("/")))
}

/// The bytes of a file in the program; `None` for any other path.
pub(crate) fn bytes(path: &Path) -> Option<&'static [u8]> {
    let (folder, name) = inside(path)?;
    folder.files.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes)
}

/// Whether a path is a file, on the disk or in the program.
pub fn is_file(path: &Path) -> bool {
    bytes(path).is_some() || path.is_file()
}

/// Whether a path is a folder, on the disk or in the program.
pub fn is_dir(path: &Path) -> bool {
    let embedded = inside(path).is_some_and(|(folder, name)| {
        let below = |file: &str| file.strip_prefix(&name).is_some_and(|rest| rest.starts_with('/'));
        name.is_empty() || folder.files.iter().any(|(file, _)| below(file))
    });
    embedded || path.is_dir()
}

/// A file's text, on the disk or in the program.
///
/// # Errors
///
/// As [`fs::read_to_string`].
pub fn read_to_string(path: &Path) -> io::Result<String> {
    match bytes(path) {
        Some(bytes) => String::from_utf8(bytes.to_vec())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        None => fs::read_to_string(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static FOLDER: EmbeddedFolder =
        EmbeddedFolder { name: "of the tests", files: &[("a.txt", b"one"), ("b/c.txt", b"two")] };

    #[test]
    fn files_and_folders() {
        let path = FOLDER.path();
        assert_eq!(path, FOLDER.path());
        assert_eq!(read_to_string(&path.join("b").join("c.txt")).expect("it is there"), "two");
        assert!(is_file(&path.join("a.txt")) && is_dir(&path) && is_dir(&path.join("b")));
        for wrong in ["b/c", "a", "b/c.txt/d", "c.txt", "../a.txt"] {
            let wrong = path.join(wrong);
            assert!(!is_file(&wrong) && !is_dir(&wrong), "{wrong:?}");
            assert!(read_to_string(&wrong).is_err(), "{wrong:?}");
        }
        assert!(!is_dir(&Path::new(ROOT).join("another")) && !is_dir(Path::new(ROOT)));
    }
}
