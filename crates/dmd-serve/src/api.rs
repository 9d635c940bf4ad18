//! The server's own API.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::answer::Failure;
use crate::queue::{Event, answer};
use crate::server::App;
use crate::wanted::Body;

/// A body as JSON. Its type must be named: a page elsewhere can then not send it without being asked first.
pub(crate) fn parsed<T: DeserializeOwned>(headers: &HeaderMap, body: &Bytes) -> Result<T, Failure> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Err(Failure::Request(
            "the body must be JSON, with the header Content-Type: application/json".to_owned(),
        ));
    }
    serde_json::from_slice(body)
        .map_err(|error| Failure::Request(format!("the body cannot be read: {error}")))
}

/// `POST /generate`: a PNG, server-sent events, or JSON, whichever the client accepts.
pub(crate) async fn generate(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Response {
    drawn(&app, &headers, &body).await.unwrap_or_else(|failure| {
        app.queue.metrics().refused();
        failure.into_response()
    })
}

async fn drawn(app: &App, headers: &HeaderMap, body: &Bytes) -> Result<Response, Failure> {
    let accepts = |kind: &str| {
        let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        accepted.split(',').any(|part| part.split(';').next().unwrap_or_default().trim() == kind)
    };
    let body: Body = parsed(headers, body)?;
    let previews = body.previews;
    let wanted = body.wanted(app.queue.settings(), app.queue.pipeline())?;
    let (png, events) = (accepts("image/png"), accepts("text/event-stream"));
    if png && wanted.prompts.len() > 1 {
        return Err(Failure::Request(
            "image/png holds one picture; ask for one, or accept application/json".to_owned(),
        ));
    }
    let receiver = app.queue.push(wanted, previews && events)?;
    if events {
        let stream = UnboundedReceiverStream::new(receiver).map(|event| Ok::<_, Infallible>(told(event)));
        return Ok(Sse::new(stream).keep_alive(sse::KeepAlive::default()).into_response());
    }
    // From here on the request is counted by the queue.
    Ok(match answer(receiver, app.queue.settings().time).await {
        Ok(answer) if png => answer.png(),
        Ok(answer) => Json(answer.json()).into_response(),
        Err(failure) => failure.into_response(),
    })
}

/// An event as a client reads it: `step`, `done` or `error`.
fn told(event: Event) -> sse::Event {
    let (name, value) = match event {
        Event::Step { step, steps, preview } => (
            "step",
            json!({"step": step, "steps": steps, "preview": preview.map(|png| STANDARD.encode(png))}),
        ),
        Event::Done(Ok(answer)) => ("done", answer.json()),
        Event::Done(Err(failure)) => ("error", json!({"error": failure.to_string()})),
    };
    sse::Event::default().event(name).data(value.to_string())
}

/// `GET /models`: what this server draws with, and its limits.
pub(crate) async fn models(State(app): State<Arc<App>>) -> Json<serde_json::Value> {
    let (pipeline, settings) = (app.queue.pipeline(), app.queue.settings());
    let (height, width) = pipeline.default_size();
    Json(json!({"models": [{
        "name": settings.model,
        "width": width, "height": height,
        "generator_steps": pipeline.generator_steps(),
        "teacher": pipeline.has_teacher(),
        "guidance": pipeline.default_guidance(),
        "notes": pipeline.notes(),
        "limits": {
            "pictures": settings.pictures, "side": settings.side, "prompt_bytes": settings.prompt,
            "steps": settings.steps, "waiting": settings.waiting, "seconds": settings.time.as_secs(),
        },
    }]}))
}

/// `GET /health`.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Json<serde_json::Value> {
    Json(json!({"status": "ok", "waiting": app.queue.waiting()}))
}

/// `GET /metrics`.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, app.queue.metrics().text(app.queue.waiting()))
}

/// Every other path.
pub(crate) async fn unknown() -> Response {
    let body = Json(json!({"error": "there is nothing here; /openapi.json describes what there is"}));
    (StatusCode::NOT_FOUND, body).into_response()
}
