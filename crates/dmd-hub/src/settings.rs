use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;

/// The default address of the hub.
const ENDPOINT: &str = "https://huggingface.co";

/// The settings in the environment variables of `huggingface_hub`.
pub(crate) struct Settings {
    pub(crate) endpoint: String,
    pub(crate) cache: PathBuf,
    pub(crate) token: Option<String>,
    pub(crate) offline: bool,
    pub(crate) symlinks: bool,
    /// How long a connection may be silent.
    pub(crate) timeout: Duration,
    /// The file of trusted certificates, which replace those of Mozilla.
    pub(crate) certificates: Option<PathBuf>,
    /// Whether a variable names a proxy.
    pub(crate) proxy: bool,
}

impl Settings {
    /// Reads the settings. An empty variable counts as not set.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let get = |names: &[&str]| {
            names.iter().find_map(|name| variable(name).filter(|value| !value.trim().is_empty()))
        };
        let is_set = |names: &[&str]| get(names).is_some_and(|value| is_true(&value));
        let user = get(&["HOME", "USERPROFILE"]).map(PathBuf::from);
        let path = |text: String| {
            let text = expand(&text, &variable);
            match (text.strip_prefix('~'), &user) {
                (Some(rest), Some(user)) if rest.is_empty() || rest.starts_with(['/', '\\']) => {
                    user.join(rest.trim_start_matches(['/', '\\']))
                }
                _ => PathBuf::from(text),
            }
        };
        let home = match (get(&["HF_HOME"]), get(&["XDG_CACHE_HOME"]), &user) {
            (Some(home), _, _) => Some(path(home)),
            (None, Some(caches), _) => Some(path(caches).join("huggingface")),
            (None, None, Some(user)) => Some(user.join(".cache").join("huggingface")),
            (None, None, None) => None,
        };
        let cache = get(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
            .map(path)
            .or_else(|| home.as_ref().map(|home| home.join("hub")))
            .ok_or_else(|| setting("HF_HOME", "no variable says where the home folder is; set it"))?;
        let endpoint = get(&["HF_ENDPOINT"]).unwrap_or_else(|| ENDPOINT.to_owned());
        let token_file = get(&["HF_TOKEN_PATH"]).map(path).or_else(|| home.map(|home| home.join("token")));
        let token = if is_set(&["HF_HUB_DISABLE_IMPLICIT_TOKEN"]) {
            None
        } else {
            match get(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]) {
                Some(token) => Some(clean("HF_TOKEN", &token)?),
                None => match token_file {
                    Some(file) => token_in(&file)?,
                    None => None,
                },
            }
        };
        let timeout = match get(&["HF_HUB_DOWNLOAD_TIMEOUT"]) {
            None => Duration::from_secs(30),
            Some(text) => text
                .trim()
                .parse()
                .ok()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .filter(|timeout| !timeout.is_zero())
                .ok_or_else(|| setting("HF_HUB_DOWNLOAD_TIMEOUT", "it is a number of seconds above zero"))?,
        };
        Ok(Self {
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            cache,
            token,
            offline: is_set(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]),
            symlinks: !is_set(&["HF_HUB_DISABLE_SYMLINKS"]),
            timeout,
            certificates: get(&["SSL_CERT_FILE"]).map(path),
            proxy: get(&["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"])
                .is_some(),
        })
    }
}

/// Replaces `$NAME` and `${NAME}` in a path by the values of these variables. A variable that is not set is not
/// replaced.
fn expand(text: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let behind = &rest[at + 1..];
        let (name, after) = match behind.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(parts) => parts,
            None => {
                let usual = |c: char| c.is_ascii_alphanumeric() || c == '_';
                behind.split_at(behind.find(|c| !usual(c)).unwrap_or(behind.len()))
            }
        };
        let whole = &rest[at..rest.len() - after.len()];
        out.push_str(&variable(name).unwrap_or_else(|| whole.to_owned()));
        rest = after;
    }
    out + rest
}

/// Reads the token that a login has stored in a file.
fn token_in(file: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(file) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => clean(&format!("the token in {file:?}"), &text).map(Some),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(Error::cache(file)(error)),
    }
}

/// Removes white space around a token. Returns an error for a token that cannot be a part of a request's header.
fn clean(variable: &str, token: &str) -> Result<String, Error> {
    let token = token.trim();
    if token.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(token.to_owned())
    } else {
        Err(setting(variable, "it contains a space or a character that is not ASCII"))
    }
}

pub(crate) fn setting(variable: &str, reason: &str) -> Error {
    Error::Setting { variable: variable.to_owned(), reason: reason.to_owned() }
}

/// Whether `huggingface_hub` reads a value as true.
fn is_true(value: &str) -> bool {
    matches!(value.trim().to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, Error> {
        let find =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Settings::read(find)
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cache = |variables: &[(&str, &str)]| read(variables).unwrap().cache;
        let home = ("HOME", "/home/u");
        assert_eq!(cache(&[home]), Path::new("/home/u/.cache/huggingface/hub"));
        assert_eq!(cache(&[home, ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        let hf = ("HF_HOME", "~/hf");
        assert_eq!(cache(&[home, ("XDG_CACHE_HOME", "/x"), hf]), Path::new("/home/u/hf/hub"));
        let old = ("HUGGINGFACE_HUB_CACHE", "/old");
        assert_eq!(cache(&[home, hf, old]), Path::new("/old"));
        assert_eq!(cache(&[home, hf, old, ("HF_HUB_CACHE", "/new")]), Path::new("/new"));
        assert_eq!(cache(&[home, ("HF_HOME", ""), ("HF_HUB_CACHE", " ")]), cache(&[home]));
        let disk = ("DISK", "/d");
        for (text, expected) in [
            ("$DISK/hub", "/d/hub"),
            ("${DISK}x/$HOME", "/dx//home/u"),
            ("/a$b/$", "/a$b/$"),
            ("/${DISK", "/${DISK"),
            ("~", "/home/u"),
            ("~user/x", "~user/x"),
        ] {
            assert_eq!(cache(&[home, disk, ("HF_HUB_CACHE", text)]), Path::new(expected), "{text}");
        }
        assert!(read(&[]).is_err());
    }

    #[test]
    fn the_token_is_a_variable_or_a_file_and_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let token = |variables: &[(&str, &str)]| {
            read(&[&[("HOME", "/nowhere"), ("HF_HOME", home)], variables].concat())
                .map(|settings| settings.token)
        };
        assert_eq!(token(&[]).unwrap(), None);
        fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        assert_eq!(token(&[]).unwrap().unwrap(), "hf_file");
        assert_eq!(token(&[("HF_TOKEN", " hf_variable\n")]).unwrap().unwrap(), "hf_variable");
        assert_eq!(token(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).unwrap(), None);
        fs::write(folder.path().join("other"), "hf_other").unwrap();
        let other = folder.path().join("other");
        assert_eq!(token(&[("HF_TOKEN_PATH", other.to_str().unwrap())]).unwrap().unwrap(), "hf_other");
        let error = token(&[("HF_TOKEN", "hf_se\ncret")]).unwrap_err().to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("cret"), "{error}");
    }

    #[test]
    fn switches_and_numbers_are_read_as_python_does() {
        let home = ("HOME", "/home/u");
        for yes in ["1", "on", "YES", "True"] {
            assert!(read(&[home, ("HF_HUB_OFFLINE", yes)]).unwrap().offline);
        }
        for no in ["0", "", "false", "2"] {
            assert!(!read(&[home, ("HF_HUB_OFFLINE", no)]).unwrap().offline);
        }
        assert!(read(&[home, ("TRANSFORMERS_OFFLINE", "1")]).unwrap().offline);
        assert_eq!(read(&[home, ("HF_ENDPOINT", "http://h/x/")]).unwrap().endpoint, "http://h/x");
        assert_eq!(read(&[home, ("HF_HUB_DOWNLOAD_TIMEOUT", "7")]).unwrap().timeout, Duration::from_secs(7));
        for bad in ["x", "-1", "0", "inf", "NaN"] {
            assert!(read(&[home, ("HF_HUB_DOWNLOAD_TIMEOUT", bad)]).is_err(), "{bad}");
        }
    }
}
