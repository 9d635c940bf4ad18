//! Who may ask: tokens, hosts, origins.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
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
    let body = axum::Json(json!({"error": {"message": sentence, "type": "invalid_request_error"}}));
    let challenge = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
    (StatusCode::UNAUTHORIZED, challenge, body).into_response()
}

/// Compares all bytes, whichever is wrong.
fn equal(given: &[u8], wanted: &[u8]) -> bool {
    let differences = given.iter().zip(wanted).fold(0, |sum, (a, b)| sum | (a ^ b));
    differences == 0 && given.len() == wanted.len()
}

/// On the loopback address a page from elsewhere could reach the server by a name of its own that points there. Such
/// requests name another host.
pub(crate) async fn host(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if !app.address.ip().is_loopback() {
        return next.run(request).await;
    }
    let named = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let named = named.or_else(|| request.uri().host()).unwrap_or_default();
    if is_loopback(named) {
        return next.run(request).await;
    }
    let body = axum::Json(json!({"error": "this server listens on the loopback address alone"}));
    (StatusCode::FORBIDDEN, body).into_response()
}

fn is_loopback(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = host.rsplit_once(':').map_or(host, |(name, port)| match port.parse::<u16>() {
        Ok(_) => name,
        Err(_) => host,
    });
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
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
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for own in
            ["localhost", "localhost:7860", "127.0.0.1", "127.0.0.1:80", "[::1]:80", "[::1]", "LOCALHOST:1"]
        {
            assert!(is_loopback(own), "{own}");
        }
        for other in
            ["", "evil.example", "evil.example:7860", "localhost.evil.example", "10.0.0.1:80", "127.0.0.1.x"]
        {
            assert!(!is_loopback(other), "{other}");
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
