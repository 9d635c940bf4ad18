//! The server's own API.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::answer::Failure;
use crate::queue::{Event, answer};
use crate::server::App;
use crate::wanted::Body;

/// Time for a body to arrive.
const BODY: Duration = Duration::from_secs(15);

/// A request's body as JSON. Its type must be named: a page elsewhere can then not send it without being asked first.
pub(crate) async fn parsed<T: DeserializeOwned>(app: &App, request: Request) -> Result<T, Failure> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    if !kind.trim().eq_ignore_ascii_case("application/json") {
        let sentence = "the body must be JSON, with the header Content-Type: application/json";
        return Err(Failure::Request(sentence.to_owned()));
    }
    let most = app.queue.settings().body;
    let body = to_bytes(request.into_body(), most);
    let body = timeout(BODY, body).await.map_err(|_late| Failure::Slow(BODY.as_secs()))?;
    let body = body.map_err(|_broken| Failure::Large(most))?;
    serde_json::from_slice(&body)
        .map_err(|error| Failure::Request(format!("the body cannot be read: {error}")))
}

/// `POST /generate`: a PNG, server-sent events, or JSON, whichever the client accepts.
pub(crate) async fn generate(State(app): State<Arc<App>>, request: Request) -> Response {
    let accepted = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let accepted = accepted.unwrap_or_default().to_owned();
    let accepts = |kind: &str| {
        accepted.split(',').any(|part| part.split(';').next().unwrap_or_default().trim() == kind)
    };
    let (png, events) = (accepts("image/png"), accepts("text/event-stream"));
    let receiver = match queued(&app, request, png, events).await {
        Ok(receiver) => receiver,
        Err(failure) => {
            app.queue.metrics().refused();
            return failure.into_response();
        }
    };
    // From here on the request is counted by the queue.
    if events {
        let stream = UnboundedReceiverStream::new(receiver).map(|event| Ok::<_, Infallible>(told(event)));
        return Sse::new(stream).keep_alive(sse::KeepAlive::default()).into_response();
    }
    match answer(receiver, app.queue.settings().time).await {
        Ok(answer) if png => answer.png(),
        Ok(answer) => Json(answer.json()).into_response(),
        Err(failure) => failure.into_response(),
    }
}

async fn queued(
    app: &App,
    request: Request,
    png: bool,
    events: bool,
) -> Result<UnboundedReceiver<Event>, Failure> {
    let body: Body = parsed(app, request).await?;
    let previews = body.previews;
    let wanted = app.queue.wanted(body).await?;
    if png && wanted.prompts.len() > 1 {
        let sentence = "image/png holds one picture; ask for one, or accept application/json";
        return Err(Failure::Request(sentence.to_owned()));
    }
    app.queue.push(wanted, previews && events)
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
    let (pipeline, settings) = (app.queue.pipeline().await, app.queue.settings());
    let (height, width) = pipeline.default_size();
    Json(json!({"models": [{
        "name": settings.model,
        "width": width, "height": height,
        "generator_steps": pipeline.generator_steps(),
        "teacher": pipeline.has_teacher(),
        "guidance": pipeline.default_guidance(),
        "loras": app.queue.loras().json(),
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
