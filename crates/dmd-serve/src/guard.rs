//! Who may ask: tokens, hosts, origins.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::Settings;
use crate::server::App;

/// Refuses requests without the token, where there is one.
pub(crate) async fn token(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let Some(wanted) = &app.queue.settings().token else { return next.run(request).await };
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if equal(given.as_bytes(), wanted.as_bytes()) {
        return next.run(request).await;
    }
    let sentence = "this server wants a token: send the header Authorization: Bearer TOKEN";
    let challenge = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
    (challenge, refusal(request.uri().path(), StatusCode::UNAUTHORIZED, sentence)).into_response()
}

/// An error in the form of its path's API.
fn refusal(path: &str, status: StatusCode, sentence: &str) -> Response {
    let error = match path.starts_with("/v1/") {
        true => json!({"message": sentence, "type": "invalid_request_error", "param": null, "code": null}),
        false => json!(sentence),
    };
    (status, axum::Json(json!({"error": error}))).into_response()
}

/// Compares all bytes, whichever is wrong.
fn equal(given: &[u8], wanted: &[u8]) -> bool {
    let differences = given.iter().zip(wanted).fold(0, |sum, (a, b)| sum | (a ^ b));
    differences == 0 && given.len() == wanted.len()
}

/// A page from elsewhere could reach a server without a token by a name of its own that points to it. Such requests name that
/// host: only addresses, `localhost` and the names that the server was told are answered.
pub(crate) async fn host(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let settings = app.queue.settings();
    let named = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let named = named.or_else(|| request.uri().host()).unwrap_or_default();
    if settings.token.is_some() || is_own(named, &settings.names) {
        return next.run(request).await;
    }
    let sentence = "this server has another name; start it with --name to be reached by this one";
    refusal(request.uri().path(), StatusCode::FORBIDDEN, sentence)
}

fn is_own(host: &str, names: &[String]) -> bool {
    if host.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let name = host.rsplit_once(':').map_or(host, |(name, port)| match port.parse::<u16>() {
        Ok(_) => name,
        Err(_) => host,
    });
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok()
        || names.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// Refuses origins that no browser would ever name.
pub(crate) fn check(settings: &Settings) -> Result<(), String> {
    for origin in &settings.origins {
        let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        let right = host.is_some_and(|host| {
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@*".contains(&byte))
        });
        if !right {
            return Err(format!("{origin:?} is no origin; write e.g. https://example.org, without a path"));
        }
    }
    Ok(())
}

/// Pages of other origins that may use the API.
pub(crate) fn origins(settings: &Settings) -> Option<CorsLayer> {
    let named: Vec<HeaderValue> =
        settings.origins.iter().filter_map(|origin| HeaderValue::try_from(origin).ok()).collect();
    (!named.is_empty()).then(|| {
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(named))
            .allow_methods([Method::GET, Method::POST])
            .allow_headers([header::CONTENT_TYPE, header::AUTHORIZATION, header::ACCEPT])
            .expose_headers([
                header::RETRY_AFTER,
                HeaderName::from_static("x-seed"),
                HeaderName::from_static("x-drawn-ms"),
                HeaderName::from_static("x-waited-ms"),
            ])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let names = ["studio.example".to_owned()];
        for own in [
            "localhost",
            "localhost:7860",
            "127.0.0.1:80",
            "[::1]:80",
            "[::1]",
            "10.0.0.1",
            "Studio.example:1",
        ] {
            assert!(is_own(own, &names), "{own}");
        }
        for other in ["", "evil.example", "evil.example:7860", "localhost.evil.example", "127.0.0.1.x", ":80"]
        {
            assert!(!is_own(other, &names), "{other}");
        }
    }

    #[test]
    fn origins_are_checked() {
        let of = |origin: &str| check(&Settings { origins: vec![origin.to_owned()], ..Settings::default() });
        for right in ["https://example.org", "http://localhost:3000"] {
            assert_eq!(of(right), Ok(()));
        }
        for wrong in ["*", "example.org", "https://", "https://example.org/", "https://a b", "null"] {
            assert!(of(wrong).is_err_and(|sentence| sentence.contains(wrong)), "{wrong}");
        }
    }

    #[test]
    fn tokens() {
        assert!(equal(b"abc", b"abc"));
        for wrong in [&b"abx"[..], b"ab", b"abcx", b""] {
            assert!(!equal(wrong, b"abc"));
        }
    }
}
