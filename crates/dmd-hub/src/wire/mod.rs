mod address;
mod failure;
mod headers;
mod tries;

use std::fs;
use std::path::Path;
use std::time::Duration;

use ureq::http::{Response, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Proxy};

use crate::settings::{Settings, setting};
use crate::{Error, Repository};

pub(crate) use address::host;
use address::{Origin, encode, join, origin};
pub(crate) use failure::{Failure, broken};
use headers::next_page;
pub(crate) use tries::{Tries, retries, sleep};

/// Maximum length in bytes of a text response, such as one page of a list of files.
const LONGEST_ANSWER: u64 = 64 << 20;

/// Makes requests to the hub.
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    home: Origin,
    token: Option<String>,
    pub(crate) pause: Duration,
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
            // `Client::get` follows redirects itself, so that the token is not sent along and the answering host is
            // known.
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

    /// The hub's host, for messages.
    pub(crate) fn host(&self) -> String {
        host(&self.endpoint)
    }

    /// The address that returns the commit of a revision.
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

    /// Requests a text, and returns it with the address of the next page. Retries after a failure that may be
    /// temporary.
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
                        // Without a network, the user should not wait long for the error.
                        tries.at_most(2);
                    }
                    tries.wait(failure, &mut go_on)?;
                }
            }
        }
    }

    /// Makes one request and follows its redirects. `from` is the first byte that is requested, if not the whole file.
    /// Returns responses with status 200, 206 or 416; any other final status is a failure.
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
}

/// Reads the certificates in a file.
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
