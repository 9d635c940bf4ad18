use std::fmt;
use std::str::FromStr;

use crate::Error;

/// The default revision.
const MAIN: &str = "main";

/// A model's repository on the hub at a revision, written as `OWNER/NAME` or `OWNER/NAME@REVISION`. A `:FILE` after
/// either form names one file of the repository.
///
/// ```
/// use dmd_hub::Repository;
///
/// let repository = Repository::parse("tianweiy/DMD2@main:dmd2_sdxl_4step_lora_fp16.safetensors")?;
/// assert_eq!(repository.name(), "tianweiy/DMD2");
/// assert_eq!(repository.file(), Some("dmd2_sdxl_4step_lora_fp16.safetensors"));
/// # Ok::<(), dmd_hub::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Repository {
    name: String,
    revision: String,
    file: Option<String>,
}

impl Repository {
    /// Parses a repository's name. The caller must check first whether the text is a folder on the disk.
    ///
    /// # Errors
    ///
    /// [`Error::NotARepository`] if the text cannot be a repository's name.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::NotARepository { text: text.to_owned(), reason: reason.to_owned() };
        let (rest, file) = match text.split_once(':') {
            Some((rest, file)) => (rest, Some(file)),
            None => (text, None),
        };
        let (name, revision) = rest.split_once('@').unwrap_or((rest, MAIN));
        match name.split_once('/') {
            None => return Err(wrong("write OWNER/NAME")),
            Some((owner, name)) if name.contains('/') || owner.is_empty() || name.is_empty() => {
                return Err(wrong("write OWNER/NAME, with one slash"));
            }
            Some((owner, name)) => {
                for part in [owner, name] {
                    is_name(part).map_err(wrong)?;
                }
            }
        }
        if name.len() > 96 {
            return Err(wrong("names have at most 96 characters"));
        }
        is_revision(revision).map_err(wrong)?;
        if let Some(file) = file {
            is_safe_path(file).map_err(wrong)?;
        }
        Ok(Self { name: name.to_owned(), revision: revision.to_owned(), file: file.map(str::to_owned) })
    }

    /// `OWNER/NAME`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The branch, tag or commit; `main` by default.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The file that was named, if any.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }
}

impl FromStr for Repository {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.name)?;
        if self.revision != MAIN {
            write!(out, "@{}", self.revision)?;
        }
        match &self.file {
            Some(file) => write!(out, ":{file}"),
            None => Ok(()),
        }
    }
}

/// Whether a text is a commit's full hash.
pub(crate) fn is_commit(text: &str) -> bool {
    is_hash(text, 40)
}

/// Whether a text is a hash of `digits` lower-case hexadecimal digits.
pub(crate) fn is_hash(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Checks the hub's rules for an owner or a name.
fn is_name(part: &str) -> Result<(), &'static str> {
    if !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
        return Err("owner and name are letters, digits, '-', '_' and '.'");
    }
    if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
        return Err("owner and name neither begin nor end with '-' or '.'");
    }
    if part.contains("--") || part.contains("..") {
        return Err("owner and name do not contain '--' or '..'");
    }
    Ok(())
}

/// Checks Git's rules for a branch or tag. The check is somewhat stricter, so that the text is also a valid path on
/// every system.
fn is_revision(revision: &str) -> Result<(), &'static str> {
    if revision.is_empty() || revision.len() > 200 {
        return Err("the revision behind '@' is a branch, a tag or a commit");
    }
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/' | b'+');
    if !revision.bytes().all(usual) {
        return Err("a revision is letters, digits, '-', '_', '.', '+' and '/'");
    }
    let odd = |part: &str| {
        part.is_empty() || part.starts_with(['.', '-']) || part.ends_with('.') || part.contains("..")
    };
    if revision.split('/').any(odd) {
        return Err("no part of a revision is empty, begins with '.' or '-', ends with '.' or contains '..'");
    }
    Ok(())
}

/// Checks that a path of a repository may be written below a folder: it must be relative, and its names must be valid
/// on every system.
pub(crate) fn is_safe_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() || path.len() > 1000 {
        return Err("it is empty or longer than 1000 bytes");
    }
    if path.chars().any(|c| c.is_control() || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')) {
        return Err("it contains a character that names of files must not contain");
    }
    if path.split('/').any(|part| part.is_empty() || part.ends_with(['.', ' '])) {
        return Err("it is absolute, or a part of it is empty or ends with '.'");
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let plain = Repository::parse("stable-diffusion-v1-5/stable-diffusion-v1-5").unwrap();
        assert_eq!(plain.name(), "stable-diffusion-v1-5/stable-diffusion-v1-5");
        assert_eq!((plain.revision(), plain.file()), ("main", None));
        let whole: Repository = "a/B_2.x@refs/pr/4:sub/x.safetensors".parse().unwrap();
        assert_eq!((whole.revision(), whole.file()), ("refs/pr/4", Some("sub/x.safetensors")));
        for text in ["a/b", "a/b@v1.0", "a/b:c/d", "a/b@refs/pr/4:c"] {
            assert_eq!(Repository::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Repository::parse("a/b@main").unwrap().to_string(), "a/b");
    }

    #[test]
    fn what_cannot_be_a_repository_is_refused_in_one_sentence() {
        for text in [
            "",
            "gpt2",
            "/",
            "a/",
            "/b",
            "a/b/c",
            "../b",
            "a/..",
            "a/b--c",
            "a/b..c",
            "-a/b",
            "a/b.",
            "a b/c",
            "a\\b",
            "/home/model",
            "./model",
            "a/é",
            "a/b@",
            "a/b@..",
            "a/b@x//y",
            "a/b@/x",
            "a/b@x/",
            "a/b@x\\y",
            "a/b@x/../y",
            "a/b@.x",
            "a/b@-x",
            "a/b@x y",
            "a/b:",
            "a/b:../x",
            "a/b:/x",
            "a/b:x/./y",
            "a/b:x\\y",
            "a/b:c:d",
            "C:\\model",
            "https://huggingface.co/a/b",
        ] {
            let error = Repository::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?}")) && !error.contains('\n'), "{error}");
        }
        assert!(Repository::parse(&format!("a/{}", "b".repeat(100))).is_err());
    }

    #[test]
    fn paths_that_leave_the_folder_are_not_safe() {
        for path in ["unet/config.json", ".gitattributes", "Bild 1 (ä).png", "a/.b/c"] {
            assert_eq!(is_safe_path(path), Ok(()));
        }
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a/..",
            "a//b",
            "a/",
            ".",
            "a/./b",
            "a\\..\\b",
            "C:/x",
            "C:x",
            "a\0b",
            "a\nb",
            "x.",
            "x ",
            "nul:",
            "a|b",
            "a*",
        ] {
            assert!(is_safe_path(path).is_err(), "{path:?}");
        }
    }
}
