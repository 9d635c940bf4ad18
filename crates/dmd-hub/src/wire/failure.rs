use std::io;
use std::time::Duration;

use ureq::Body;
use ureq::http::Response;

use super::Client;
use super::address::host;
use super::headers::asked_pause;
use crate::{Error, Repository};

/// Why a request failed, and whether a retry may help.
pub(crate) enum Failure {
    Final(Error),
    /// A retry may help, after the pause that the server asks for.
    Passing(Error, Option<Duration>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// The failure for a connection error. A retry may help unless the error is about the address or the certificate.
pub(crate) fn broken(url: &str, source: ureq::Error) -> Failure {
    use ureq::Error::{BadUri, BodyExceedsLimit, InvalidProxyUrl, Io, RequireHttpsOnly, Rustls, Tls};
    let host = host(url);
    match &source {
        Rustls(_) | Tls(_) => Failure::Final(Error::Encryption { host, source: Box::new(source) }),
        // The transport wraps errors of rustls in this kind.
        Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            Failure::Final(Error::Encryption { host, source: Box::new(source) })
        }
        BadUri(_) | BodyExceedsLimit(_) | InvalidProxyUrl | RequireHttpsOnly(_) => {
            Failure::Final(Error::Network { host, source: Box::new(source) })
        }
        _ => Failure::Passing(Error::Network { host, source: Box::new(source) }, None),
    }
}

impl Client {
    /// The failure for a response with an error status.
    pub(super) fn refusal(
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
