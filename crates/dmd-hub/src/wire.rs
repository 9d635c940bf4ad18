use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use ureq::http::{HeaderMap, Response, Uri, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Proxy};

use crate::settings::{Settings, setting};
use crate::{Error, Repository};

/// How often a request is made anew before it is given up, when nothing was received in between.
const RETRIES: u32 = 5;

/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(330);

/// How long one list of files may be.
const LONGEST_ANSWER: u64 = 64 << 20;

/// Requests to the hub.
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    home: Origin,
    token: Option<String>,
    pub(crate) pause: Duration,
}

/// Scheme, host and port: what must be equal for the token to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    tls: bool,
    host: String,
    port: u16,
}

/// Why a request failed: for good, or for now.
pub(crate) enum Failure {
    Final(Error),
    /// Worth another try, after as long as the server asks for.
    Passing(Error, Option<Duration>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// The tries that are left.
pub(crate) struct Tries {
    left: u32,
    first_pause: Duration,
    pause: Duration,
}

impl Tries {
    pub(crate) fn new(retries: u32, pause: Duration) -> Self {
        Self { left: retries, first_pause: pause, pause }
    }

    /// Something was received: the next failure is a first one.
    pub(crate) fn renew(&mut self) {
        (self.left, self.pause) = (RETRIES, self.first_pause);
    }

    /// Waits before the next try, or says that there is none. `go_on` is asked in between.
    pub(crate) fn wait(
        &mut self,
        failure: Failure,
        mut go_on: impl FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (error, asked) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing(error, asked) => (error, asked),
        };
        let pause = asked.unwrap_or_default().max(self.pause);
        if self.left == 0 || pause > LONGEST_PAUSE {
            return Err(error);
        }
        self.left -= 1;
        self.pause *= 2;
        sleep(pause, &mut go_on)
    }
}

/// Sleeps in short pieces.
pub(crate) fn sleep(pause: Duration, go_on: &mut dyn FnMut() -> Result<(), Error>) -> Result<(), Error> {
    let mut left = pause;
    while !left.is_zero() {
        go_on()?;
        let piece = left.min(Duration::from_millis(100));
        thread::sleep(piece);
        left -= piece;
    }
    go_on()
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Result<Self, Error> {
        let bad = || setting("HF_ENDPOINT", "it is an address such as https://huggingface.co");
        let home = origin(&settings.endpoint).ok_or_else(bad)?;
        let certificates = settings.certificates.as_deref().filter(|_| home.tls && !settings.offline);
        let trusted = certificates.map_or(Ok(RootCerts::WebPki), trusted)?;
        let agent = Agent::config_builder()
            .tls_config(TlsConfig::builder().root_certs(trusted).build())
            .http_status_as_error(false)
            // Redirects are followed here: the token must not go along, and it is to be known who answers.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(Duration::from_secs(10)))
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(settings.timeout))
            .timeout_per_read(Some(settings.timeout))
            .timeout_per_write(Some(settings.timeout))
            .user_agent(concat!("dmd-hub/", env!("CARGO_PKG_VERSION")))
            .proxy(if settings.proxy { Proxy::try_from_env() } else { None })
            .build()
            .new_agent();
        Ok(Self {
            agent,
            endpoint: settings.endpoint.clone(),
            home,
            token: settings.token.clone(),
            pause: Duration::from_secs(1),
        })
    }

    /// The hub's host, for a message.
    pub(crate) fn host(&self) -> String {
        host(&self.endpoint)
    }

    /// The address that answers for a revision with its commit.
    pub(crate) fn revision(&self, repository: &Repository) -> String {
        let (name, revision) = (repository.name(), encode(repository.revision(), ""));
        format!("{}/api/models/{name}/revision/{revision}", self.endpoint)
    }

    /// The address of the list of files.
    pub(crate) fn tree(&self, repository: &Repository, commit: &str) -> String {
        format!(
            "{}/api/models/{}/tree/{commit}?recursive=true&expand=false",
            self.endpoint,
            repository.name()
        )
    }

    /// The address of a file.
    pub(crate) fn file(&self, repository: &Repository, commit: &str, path: &str) -> String {
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, repository.name(), encode(path, "/"))
    }

    /// A whole answer as text, with the address of the next page. A failure that may pass is tried again.
    pub(crate) fn text(
        &self,
        repository: &Repository,
        url: &str,
        retries: u32,
        mut go_on: impl FnMut() -> Result<(), Error>,
    ) -> Result<(String, Option<String>), Error> {
        let mut tries = Tries::new(retries, self.pause);
        loop {
            let answer = self.get(repository, None, url, None).and_then(|mut response| {
                let next = next_page(response.headers()).map(|next| join(url, &next));
                let text = response.body_mut().with_config().limit(LONGEST_ANSWER).read_to_string();
                match text {
                    Ok(text) => Ok((text, next.flatten())),
                    Err(error) => Err(broken(url, error)),
                }
            });
            match answer {
                Ok(answer) => return Ok(answer),
                Err(failure) => {
                    if matches!(failure, Failure::Passing(Error::Network { .. }, _)) {
                        // Without a network the error is not to be waited for.
                        tries.left = tries.left.min(2);
                    }
                    tries.wait(failure, &mut go_on)?;
                }
            }
        }
    }

    /// One request, along its redirects, from a byte on where one is given. Only answers with content come back.
    pub(crate) fn get(
        &self,
        repository: &Repository,
        file: Option<&str>,
        url: &str,
        from: Option<u64>,
    ) -> Result<Response<Body>, Failure> {
        let mut url = url.to_owned();
        for _ in 0..10 {
            let answer = |reason: &str| Error::Answer { host: host(&url), reason: reason.to_owned() };
            let at = origin(&url).ok_or_else(|| answer("it names an address that is none"))?;
            let at_home = at == self.home;
            let mut request = self.agent.get(&url).header(header::ACCEPT_ENCODING, "identity");
            if let (true, Some(token)) = (at_home, &self.token) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if let Some(from) = from {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let response = request.call().map_err(|error| broken(&url, error))?;
            let status = response.status().as_u16();
            match status {
                200 | 206 | 416 => return Ok(response),
                301 | 302 | 303 | 307 | 308 => {
                    let target =
                        response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
                    let target = target
                        .and_then(|target| join(&url, target))
                        .ok_or_else(|| answer("it redirects to an address that is none"))?;
                    if at.tls && origin(&target).is_some_and(|origin| !origin.tls) {
                        return Err(answer("it redirects to an address without encryption").into());
                    }
                    url = target;
                }
                _ => return Err(self.refusal(repository, file, &url, at_home, &response)),
            }
        }
        Err(Error::Answer { host: host(&url), reason: "it redirects again and again".to_owned() }.into())
    }

    /// What an answer without content means.
    fn refusal(
        &self,
        repository: &Repository,
        file: Option<&str>,
        url: &str,
        at_home: bool,
        response: &Response<Body>,
    ) -> Failure {
        let status = response.status().as_u16();
        let text = |name: &str| {
            let text = response.headers().get(name).and_then(|value| value.to_str().ok())?;
            Some(text.chars().filter(|c| !c.is_control()).take(300).collect::<String>())
        };
        let message = text("x-error-message");
        let named = repository.name().to_owned();
        let with_token = self.token.is_some();
        if matches!(status, 408 | 429 | 500..) {
            let error = Error::Status { host: host(url), status, message };
            return Failure::Passing(error, asked_pause(response.headers()));
        }
        let code = text("x-error-code").unwrap_or_default();
        Failure::Final(match (code.as_str(), status) {
            _ if !at_home => Error::Status { host: host(url), status, message },
            ("RevisionNotFound", _) => {
                Error::RevisionNotFound { repository: named, revision: repository.revision().to_owned() }
            }
            ("EntryNotFound", _) => {
                Error::FileNotFound { repository: named, file: file.unwrap_or_default().to_owned() }
            }
            ("GatedRepo", _) => {
                Error::Gated { page: format!("{}/{named}", self.endpoint), repository: named, with_token }
            }
            (_, 401)
                if with_token
                    && message.as_deref().is_some_and(|text| text.contains("nvalid credentials")) =>
            {
                Error::TokenRefused
            }
            ("RepoNotFound", _) | (_, 401) => Error::RepositoryNotFound { repository: named, with_token },
            (_, 404) => match file {
                Some(file) => Error::FileNotFound { repository: named, file: file.to_owned() },
                None => Error::RepositoryNotFound { repository: named, with_token },
            },
            _ => Error::Status { host: host(url), status, message },
        })
    }
}

/// The certificates of a file.
fn trusted(file: &Path) -> Result<RootCerts, Error> {
    let bad = |reason: &str| setting("SSL_CERT_FILE", &format!("{file:?} {reason}"));
    let pem = fs::read(file).map_err(|error| bad(&format!("cannot be read: {error}")))?;
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    match RootCerts::from(certificates) {
        RootCerts::Specific(all) if all.is_empty() => Err(bad("holds no certificates")),
        roots => Ok(roots),
    }
}

/// A fault of the connection: one that may pass, unless it is about the address or the certificate.
pub(crate) fn broken(url: &str, source: ureq::Error) -> Failure {
    use ureq::Error::{BadUri, BodyExceedsLimit, InvalidProxyUrl, Io, RequireHttpsOnly, Rustls, Tls};
    let host = host(url);
    match &source {
        Rustls(_) | Tls(_) => Failure::Final(Error::Encryption { host, source: Box::new(source) }),
        // rustls' own, wrapped by the transport.
        Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            Failure::Final(Error::Encryption { host, source: Box::new(source) })
        }
        BadUri(_) | BodyExceedsLimit(_) | InvalidProxyUrl | RequireHttpsOnly(_) => {
            Failure::Final(Error::Network { host, source: Box::new(source) })
        }
        _ => Failure::Passing(Error::Network { host, source: Box::new(source) }, None),
    }
}

/// The pause that a server asks for: `Retry-After` in seconds, or the hub's `RateLimit: "api";r=0;t=55`.
fn asked_pause(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let retry_after = text("retry-after").and_then(|text| text.trim().parse().ok());
    let rate_limit = || {
        let mut parts = text("ratelimit")?.split(';').map(str::trim);
        parts.find_map(|part| part.strip_prefix("t=")).and_then(|seconds| seconds.parse().ok())
    };
    retry_after.or_else(rate_limit).map(Duration::from_secs)
}

/// The address of the next page, of the header `Link: <…>; rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(header::LINK).iter().filter_map(|value| value.to_str().ok());
    links.flat_map(|links| links.split(",")).find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let next =
            parameters.split(';').any(|parameter| matches!(parameter.trim(), "rel=\"next\"" | "rel=next"));
        next.then(|| target.to_owned())
    })
}

fn origin(url: &str) -> Option<Origin> {
    let uri: Uri = url.parse().ok()?;
    let tls = match uri.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let host = uri.host().filter(|host| !host.is_empty())?.to_ascii_lowercase();
    Some(Origin { tls, host, port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }) })
}

/// The host of an address, for a message: an address itself can hold a signature.
pub(crate) fn host(url: &str) -> String {
    let uri: Option<Uri> = url.parse().ok();
    let authority = uri.as_ref().and_then(|uri| uri.authority());
    // Without what may stand in front of '@'.
    let name =
        authority.map(|authority| authority.as_str().rsplit('@').next().unwrap_or_default().to_owned());
    name.unwrap_or_else(|| "the hub".to_owned())
}

/// An address that a server names, relative to the one that was asked.
fn join(base: &str, target: &str) -> Option<String> {
    let uri: Uri = base.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?.as_str());
    let named = target.split(['/', '?', '#']).next().is_some_and(|first| first.contains(':'));
    let joined = if named {
        // With a scheme, which may be a wrong one.
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

/// Text as a part of an address; the characters of `keep` stay.
fn encode(text: &str, keep: &str) -> String {
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

/// How often a list of files is asked for again.
pub(crate) fn retries(cached: bool) -> u32 {
    // What the cache can answer is not waited for.
    if cached { 0 } else { RETRIES }
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
    fn headers_are_read() {
        let headers = |pairs: &[(&'static str, &str)]| {
            pairs
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect::<HeaderMap>()
        };
        let link = r#"<http://h/0>; rel="prev", <http://h/2?cursor=a%3D>; title=x; rel="next""#;
        assert_eq!(next_page(&headers(&[("link", link)])).unwrap(), "http://h/2?cursor=a%3D");
        assert_eq!(next_page(&headers(&[("link", r#"<http://h/0>; rel="prev""#)])), None);
        let pause = |name, value: &str| asked_pause(&headers(&[(name, value)]));
        assert_eq!(pause("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(pause("ratelimit", r#""api";r=0;t=55"#), Some(Duration::from_secs(55)));
        assert_eq!(pause("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"), None);
    }

    #[test]
    fn paths_are_encoded() {
        assert_eq!(encode("refs/pr/1", ""), "refs%2Fpr%2F1");
        assert_eq!(encode("a b/ä#?.json", "/"), "a%20b/%C3%A4%23%3F.json");
    }
}
