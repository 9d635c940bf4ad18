//! What the hub answers to a request.

use super::{COMMIT, Fault, Request, State, TOKEN, etag, is_lfs};

/// An answer, as it is sent.
pub struct Response {
    pub status: u16,
    pub headers: String,
    pub body: Vec<u8>,
    /// What the header says.
    pub length: Option<usize>,
}

fn response(status: u16, headers: impl Into<String>, body: impl Into<Vec<u8>>) -> Response {
    let body = body.into();
    Response { status, headers: headers.into(), length: Some(body.len()), body }
}

/// The answer to a request, with what goes wrong with it.
pub fn respond(state: &State, request: &Request, fault: Option<&Fault>) -> Response {
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
