//! OpenAI's API for images, as far as a model that is already loaded can follow it.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::answer::{Answer, Failure};
use crate::api::parsed;
use crate::queue::{Event, answer};
use crate::server::App;
use crate::wanted::Body;

/// `POST /v1/images/generations`. Fields that choose among OpenAI's own models, such as `quality`, are not looked at.
#[derive(Debug, Deserialize)]
struct Generations {
    prompt: String,
    n: Option<usize>,
    /// `WIDTHxHEIGHT`, or `auto`.
    size: Option<String>,
    response_format: Option<Format>,
    /// Not in OpenAI's API: the seed of the first picture, and the number of steps.
    seed: Option<u64>,
    steps: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    Url,
    B64Json,
}

pub(crate) async fn generations(State(app): State<Arc<App>>, request: Request) -> Response {
    let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let host = host.map_or_else(|| app.address.to_string(), str::to_owned);
    let queued = queued(&app, request).await.inspect_err(|_| app.queue.metrics().refused());
    let drawn = match queued {
        Ok((receiver, format)) => {
            let answer = answer(receiver, app.queue.settings().time).await;
            answer.map(|answer| told(&app, answer, format, &host))
        }
        Err(failure) => Err(failure),
    };
    drawn.unwrap_or_else(|failure| {
        let kind = match failure.status().as_u16() {
            429 => "rate_limit_error",
            400..500 => "invalid_request_error",
            _ => "server_error",
        };
        let error = json!({"message": failure.to_string(), "type": kind, "param": null, "code": null});
        failure.response(json!({"error": error}))
    })
}

async fn queued(app: &App, request: Request) -> Result<(UnboundedReceiver<Event>, Format), Failure> {
    let asked: Generations = parsed(app, request).await?;
    let size = asked.size.as_deref().filter(|size| *size != "auto").map(size).transpose()?;
    let seed = asked.seed.unwrap_or_else(random);
    let body = Body::of_prompt(asked.prompt, asked.n.unwrap_or(1), seed, size, asked.steps);
    let wanted = app.queue.wanted(body).await?;
    Ok((app.queue.push(wanted, false)?, asked.response_format.unwrap_or(Format::B64Json)))
}

fn told(app: &App, answer: Answer, format: Format, host: &str) -> Response {
    let own = format!("http://{host}");
    let place = app.queue.settings().public_url.as_deref().unwrap_or(&own).trim_end_matches('/');
    let pictures = answer.pictures.into_iter().map(|picture| match format {
        Format::B64Json => json!({"b64_json": STANDARD.encode(&picture.png), "seed": picture.seed}),
        Format::Url => {
            let name = format!("{:016x}{:016x}.png", random(), random());
            let mut kept = app.kept();
            while kept.len() >= app.queue.settings().kept.max(1) {
                kept.pop_front();
            }
            kept.push_back((name.clone(), picture.png));
            json!({"url": format!("{place}/pictures/{name}"), "seed": picture.seed})
        }
    });
    let data: Vec<_> = pictures.collect();
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    Json(json!({"created": created, "data": data})).into_response()
}

/// Numbers that nobody can guess, of 53 bits, which JavaScript reads exactly: std seeds its hashers from the system's random
/// numbers.
fn random() -> u64 {
    RandomState::new().hash_one(SystemTime::now()) >> 11
}

fn size(text: &str) -> Result<(usize, usize), Failure> {
    let parts = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    parts.ok_or_else(|| Failure::Request(format!("{text:?} is no size; write e.g. 512x768, or auto")))
}

/// `GET /v1/models`.
pub(crate) async fn models(State(app): State<Arc<App>>) -> Json<serde_json::Value> {
    let model =
        json!({"id": app.queue.settings().model, "object": "model", "created": 0, "owned_by": "local"});
    Json(json!({"object": "list", "data": [model]}))
}

/// A picture of an answer with `url`, while it is kept. Its name is all that is needed.
pub(crate) async fn picture(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    let found = app.kept().iter().find(|(kept, _)| *kept == name).map(|(_, png)| png.clone());
    match found {
        Some(png) => ([(header::CONTENT_TYPE, "image/png")], png).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({"error": "this picture is not kept any more"})))
            .into_response(),
    }
}
