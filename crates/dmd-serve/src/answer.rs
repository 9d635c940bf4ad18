//! What a client gets.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dmd_infer::Error;
use serde_json::{Value, json};

/// A drawn picture.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    pub(crate) prompt: String,
    pub(crate) seed: u64,
    pub(crate) png: Vec<u8>,
}

/// The pictures of a request.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) pictures: Vec<Picture>,
    /// From the request's arrival to the start of its batch.
    pub(crate) waited: Duration,
    /// From the start of the batch to the request's last picture.
    pub(crate) drawn: Duration,
    /// Pictures that were drawn in the same batch.
    pub(crate) together: usize,
}

impl Answer {
    /// As JSON, with the pictures in base64.
    pub(crate) fn json(&self) -> Value {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let picture = |picture: &Picture| json!({"prompt": picture.prompt, "seed": picture.seed, "png": STANDARD.encode(&picture.png)});
        json!({
            "pictures": self.pictures.iter().map(picture).collect::<Vec<_>>(),
            "waited_ms": ms(self.waited), "drawn_ms": ms(self.drawn), "together": self.together,
        })
    }

    /// The first picture as a PNG file, its figures in headers.
    pub(crate) fn png(self) -> Response {
        let Some(picture) = self.pictures.into_iter().next() else {
            return Failure::Drawing("no picture was drawn".to_owned()).into_response();
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("image/png"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let ms = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1e3);
        let numbers = [
            ("x-seed", picture.seed.to_string()),
            ("x-waited-ms", ms(self.waited)),
            ("x-drawn-ms", ms(self.drawn)),
        ];
        for (name, value) in numbers {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
        (headers, picture.png).into_response()
    }
}

/// Why a client gets no picture.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum Failure {
    /// The request cannot be drawn as it is.
    #[error("{0}")]
    Request(String),
    /// The body is larger than the server reads.
    #[error("the body is too large; at most {0} bytes are read")]
    Large(usize),
    /// The body did not arrive.
    #[error("the body did not arrive within {0} s")]
    Slow(u64),
    /// Too many wait.
    #[error("{waiting} requests wait already; try again in {seconds} s")]
    Full {
        /// How many.
        waiting: usize,
        /// After which time there is probably room.
        seconds: u64,
    },
    /// It took too long.
    #[error("the request was not drawn within {0} s")]
    Late(u64),
    /// The server is going down.
    #[error("the server is stopping")]
    Stopping,
    /// Drawing itself failed.
    #[error("{0}")]
    Drawing(String),
}

impl Failure {
    /// Whose fault an error of drawing is.
    pub(crate) fn of(error: Error) -> Self {
        let mut sentence = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            sentence = format!("{sentence}: {cause}");
            source = cause.source();
        }
        match error {
            Error::NotFinite { .. } | Error::Encode { .. } => Self::Drawing(sentence),
            _ => Self::Request(sentence),
        }
    }

    /// Its HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Request(_) => StatusCode::BAD_REQUEST,
            Self::Large(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Full { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Late(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Drawing(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// A response with a body, and with the time after which to try again.
    pub(crate) fn response(&self, body: Value) -> Response {
        let mut response = (self.status(), Json(body)).into_response();
        if let Self::Full { seconds, .. } = self {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(*seconds));
        }
        response
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        self.response(json!({"error": self.to_string()}))
    }
}
