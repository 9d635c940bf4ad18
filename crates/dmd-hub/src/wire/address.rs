use ureq::http::Uri;

/// Scheme, host and port of an address. The token is sent only to an address with the hub's origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) tls: bool,
    host: String,
    port: u16,
}

/// The origin of an address; `None` if it is not an HTTP address.
pub(super) fn origin(url: &str) -> Option<Origin> {
    let uri: Uri = url.parse().ok()?;
    let tls = match uri.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let host = uri.host().filter(|host| !host.is_empty())?.to_ascii_lowercase();
    Some(Origin { tls, host, port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }) })
}

/// The host of an address, for messages. The whole address is not shown, because it may contain a signature.
pub(crate) fn host(url: &str) -> String {
    let uri: Option<Uri> = url.parse().ok();
    let authority = uri.as_ref().and_then(|uri| uri.authority());
    // A user name and a password may come before '@'.
    let name =
        authority.map(|authority| authority.as_str().rsplit('@').next().unwrap_or_default().to_owned());
    name.unwrap_or_else(|| "the hub".to_owned())
}

/// Resolves an address in a server's response, relative to the requested address.
pub(super) fn join(base: &str, target: &str) -> Option<String> {
    let uri: Uri = base.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?.as_str());
    let named = target.split(['/', '?', '#']).next().is_some_and(|first| first.contains(':'));
    let joined = if named {
        // The target has a scheme, whose validity is checked below.
        target.to_owned()
    } else if target.starts_with("//") {
        format!("{scheme}:{target}")
    } else if target.starts_with('/') {
        format!("{scheme}://{authority}{target}")
    } else if let Some(query) = target.strip_prefix('?') {
        format!("{scheme}://{authority}{}?{query}", uri.path())
    } else {
        let folder = uri.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{target}")
    };
    origin(&joined).map(|_| joined)
}

/// Percent-encodes a text as a part of an address. The characters in `keep` are not encoded.
pub(super) fn encode(text: &str, keep: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let mut out = String::new();
    for byte in text.bytes() {
        if plain(byte) || keep.as_bytes().contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_joined() {
        let base = "https://h:8/a/b?c=d";
        for (target, joined) in [
            ("/x?y", "https://h:8/x?y"),
            ("x", "https://h:8/a/x"),
            ("?cursor=2", "https://h:8/a/b?cursor=2"),
            ("//o/x", "https://o/x"),
            ("http://o:1/x", "http://o:1/x"),
        ] {
            assert_eq!(join(base, target).unwrap(), joined);
        }
        assert_eq!(join(base, "https://"), None);
        for target in ["//", "file:///etc/passwd", "ftp://h/x", "javascript:x"] {
            assert_eq!(join(base, target), None, "{target}");
        }
    }

    #[test]
    fn the_same_host_is_the_same_scheme_name_and_port() {
        let home = origin("https://huggingface.co").unwrap();
        assert_eq!(origin("https://HuggingFace.co:443/x").unwrap(), home);
        for other in [
            "http://huggingface.co/x",
            "https://huggingface.co:8443/x",
            "https://huggingface.co.evil.org/x",
            "https://huggingface.co@evil.org/x",
            "https://cdn.huggingface.co/x",
        ] {
            assert_ne!(origin(other).unwrap(), home, "{other}");
        }
        assert_eq!(origin("file:///etc/passwd"), None);
        assert_eq!(host("https://user:secret@evil.org/x?signature=1"), "evil.org");
    }

    #[test]
    fn paths_are_encoded() {
        assert_eq!(encode("refs/pr/1", ""), "refs%2Fpr%2F1");
        assert_eq!(encode("a b/ä#?.json", "/"), "a%20b/%C3%A4%23%3F.json");
    }
}
