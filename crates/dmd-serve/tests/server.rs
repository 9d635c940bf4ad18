//! A server on the loopback address with the small model: what clients get, and what they cannot do to it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dmd_infer::{Device, Method, Pipeline, Request};
use dmd_serve::{Server, Settings, Stop};
use image::RgbImage;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A server in a thread, stopped at the end.
struct Running {
    address: SocketAddr,
    stop: Stop,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Running {
    fn new(pipeline: Pipeline, settings: Settings) -> Self {
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), pipeline, settings).unwrap();
        let (address, stop) = (server.address(), server.stop());
        Self { address, stop, thread: Some(thread::spawn(move || server.run())) }
    }

    fn small(settings: Settings) -> Self {
        Self::new(Pipeline::embedded(&Device::flex()).unwrap(), settings)
    }

    /// Status, headers by name, body.
    fn ask(&self, path: &str, body: Option<&str>, headers: &[(&str, &str)]) -> (u16, Headers, Vec<u8>) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let url = format!("http://{}{path}", self.address);
        let response = match body {
            Some(body) => {
                let mut request = agent.post(&url);
                for (name, value) in headers {
                    request = request.header(*name, *value);
                }
                request.send(body)
            }
            None => {
                let mut request = agent.get(&url);
                for (name, value) in headers {
                    request = request.header(*name, *value);
                }
                request.call()
            }
        };
        let mut response = response.unwrap();
        let text = |value: &ureq::http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let headers =
            response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        (response.status().as_u16(), Headers(headers), response.body_mut().read_to_vec().unwrap())
    }

    fn json(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, _, body) = self.ask(path, Some(&body.to_string()), &[JSON]);
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// A metric's value.
    fn metric(&self, name: &str) -> f64 {
        let (_, _, text) = self.ask("/metrics", None, &[]);
        let text = String::from_utf8(text).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

struct Headers(Vec<(String, String)>);

impl Headers {
    fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }
}

const JSON: (&str, &str) = ("content-type", "application/json");
const PNG: (&str, &str) = ("accept", "image/png");

fn decoded(png: &[u8]) -> RgbImage {
    image::load_from_memory_with_format(png, image::ImageFormat::Png).unwrap().to_rgb8()
}

/// Whether two pictures are the same but for rounding: products of a batch are added in another order, 1e-6 apart, which may
/// take a value to the next of 255 levels.
fn same(found: &RgbImage, expected: &RgbImage) -> bool {
    found.dimensions() == expected.dimensions()
        && found.as_raw().iter().zip(expected.as_raw()).all(|(a, b)| a.abs_diff(*b) <= 1)
}

fn drawn(prompt: &str, seed: u64) -> RgbImage {
    let pipeline = Pipeline::embedded(&Device::flex()).unwrap();
    pipeline.generate(&Request::new([prompt]).with_seeds([seed])).unwrap().pictures.remove(0)
}

/// The picture is the library's, in each form that a client accepts, and says how it was made.
#[test]
fn pictures_are_those_of_the_library() {
    let server = Running::small(Settings { model: "small".to_owned(), ..Settings::default() });
    let expected = drawn("a red circle", 7);
    let body = json!({"prompt": "a red circle", "seed": 7});
    let (status, headers, png) = server.ask("/generate", Some(&body.to_string()), &[JSON, PNG]);
    assert_eq!((status, headers.get("content-type"), headers.get("x-seed")), (200, "image/png", "7"));
    assert!(decoded(&png) == expected);
    let text = String::from_utf8_lossy(&png).into_owned();
    assert!(
        text.contains("a red circle") && text.contains("Seed: 7") && text.contains("Model: small"),
        "{text}"
    );

    let (status, answer) =
        server.json("/generate", &json!({"prompt": "a red circle", "seed": 6, "count": 2}));
    assert_eq!(status, 200);
    let pictures = answer["pictures"].as_array().unwrap();
    assert_eq!((pictures.len(), &pictures[1]["seed"]), (2, &json!(7)));
    assert!(same(&decoded(&STANDARD.decode(pictures[1]["png"].as_str().unwrap()).unwrap()), &expected));
    assert_eq!(answer["together"], 2);

    // OpenAI's form, in both formats.
    let body = json!({"prompt": "a red circle", "n": 1, "size": "64x64", "seed": 7, "quality": "high"});
    let (status, answer) = server.json("/v1/images/generations", &body);
    assert_eq!(status, 200);
    assert!(decoded(&STANDARD.decode(answer["data"][0]["b64_json"].as_str().unwrap()).unwrap()) == expected);
    let body = json!({"prompt": "a red circle", "seed": 7, "response_format": "url"});
    let (_, answer) = server.json("/v1/images/generations", &body);
    let url = answer["data"][0]["url"].as_str().unwrap();
    let path = url.strip_prefix(&format!("http://{}", server.address)).unwrap();
    assert!(decoded(&server.ask(path, None, &[]).2) == expected);
    assert_eq!(server.ask("/pictures/0.png", None, &[]).0, 404);
    assert_eq!(server.ask("/v1/models", None, &[]).0, 200);
}

/// Events of a teacher: every step, previews where they are asked for, and the picture at the end.
#[test]
fn progress_is_told() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/shapes");
    let pipeline = Pipeline::from_dir(&folder, &Device::flex()).unwrap();
    let request = Request::new(["a red circle"]).with_seeds([7]).with_method(Method::teacher(6, 2.0));
    let expected = pipeline.generate(&request).unwrap().pictures.remove(0);
    let server = Running::new(pipeline, Settings::default());
    let body = json!({"prompt": "a red circle", "seed": 7, "steps": 6, "guidance": 2.0, "previews": true});
    let events = ("accept", "text/event-stream");
    let (status, headers, text) = server.ask("/generate", Some(&body.to_string()), &[JSON, events]);
    assert_eq!((status, headers.get("content-type")), (200, "text/event-stream"));
    let text = String::from_utf8(text).unwrap();
    let of = |name: &str| -> Vec<Value> {
        let lines =
            text.split("\n\n").filter_map(|event| event.strip_prefix(&format!("event: {name}\ndata: ")));
        lines.map(|data| serde_json::from_str(data).unwrap()).collect()
    };
    let steps = of("step");
    assert_eq!(
        steps.iter().map(|step| step["step"].as_u64().unwrap()).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6]
    );
    assert!(steps.iter().all(|step| step["steps"] == 6));
    let preview = |step: &Value| decoded(&STANDARD.decode(step["preview"].as_str().unwrap()).unwrap());
    assert!(preview(&steps[0]) != preview(&steps[4]), "previews change");
    assert!(steps[5]["preview"].is_null(), "after the last step the picture itself follows");
    let done = of("done");
    assert!(decoded(&STANDARD.decode(done[0]["pictures"][0]["png"].as_str().unwrap()).unwrap()) == expected);
}

/// What is wrong is said in a sentence, with the right status, and the server goes on.
#[test]
fn refusals() {
    let settings = Settings { side: Some(512), prompt: 100, pictures: 4, body: 2000, ..Settings::default() };
    let server = Running::small(settings);
    let long = "x".repeat(101);
    let cases = [
        (json!({}), "there is no prompt"),
        (json!({"prompt": " "}), "the prompt is empty"),
        (json!({"prompt": long}), "a prompt of 101 bytes"),
        (json!({"prompt": "x", "count": 5}), "5 pictures"),
        (json!({"prompt": "x", "count": 0}), "0 pictures"),
        (json!({"prompt": "x", "seed": 1, "seeds": [1]}), "do not go together"),
        (json!({"prompt": "x", "seeds": [1, 2]}), "2 seeds for 1 pictures"),
        (json!({"prompt": "x", "width": 520}), "a side may have 512 pixels"),
        (json!({"prompt": "x", "width": 63}), "multiples of"),
        (json!({"prompt": "x", "steps": 30}), "no teacher"),
        (json!({"prompt": "x", "guidance": 3.0}), "guidance does not go with the distilled generator"),
        (json!({"prompt": "x", "sampler": "best"}), "best"),
        (json!({"prompt": "x", "colour": "red"}), "colour"),
        (json!({"prompt": 5}), "cannot be read"),
    ];
    for (body, words) in &cases {
        let (status, answer) = server.json("/generate", body);
        let said = answer["error"].as_str().unwrap();
        assert!(status == 400 && said.contains(words), "{body}: {status} {said}");
    }
    let (status, answer) = server.json("/v1/images/generations", &json!({"prompt": "x", "size": "huge"}));
    assert!(status == 400 && answer["error"]["message"].as_str().unwrap().contains("huge"), "{answer}");
    let two = json!({"prompt": "x", "count": 2}).to_string();
    assert_eq!(server.ask("/generate", Some(&two), &[JSON, PNG]).0, 400);
    let plain = ("content-type", "text/plain");
    assert_eq!(server.ask("/generate", Some("{\"prompt\": \"x\"}"), &[plain]).0, 400);
    let large = format!("{{\"prompt\": \"{}\"}}", "x".repeat(3000));
    assert_eq!(server.ask("/generate", Some(&large), &[JSON]).0, 413);
    // Ten megabytes are not waited for, and not kept.
    let mut stream = TcpStream::connect(server.address).unwrap();
    let head = "POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 10000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let _cut = (0..1000).try_for_each(|_| stream.write_all(&[b' '; 10_000]));
    let mut answer = [0; 12];
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let read = stream.read_exact(&mut answer);
    assert!(read.is_err() || &answer == b"HTTP/1.1 413", "{}", String::from_utf8_lossy(&answer));
    assert_eq!(server.ask("/generate", None, &[]).0, 405);
    assert_eq!(server.ask("/etc/passwd", None, &[]).0, 404);
    assert_eq!(server.ask("/pictures/..%2f..%2fetc%2fpasswd", None, &[]).0, 404);
    assert_eq!(server.ask("/health", None, &[("host", "evil.example")]).0, 403);
    let (_, headers, _) = server.ask("/health", None, &[("origin", "https://evil.example")]);
    assert_eq!(headers.get("access-control-allow-origin"), "");
    assert_eq!(server.json("/generate", &json!({"prompt": "a red circle"})).0, 200);
    assert_eq!(server.metric("dmd_requests_refused_total"), cases.len() as f64 + 5.0);
}

/// A request chooses the strengths of the LoRA files that the server was started with: pictures are those of a pipeline built
/// with them, in every order, and no path of the machine is shown.
#[test]
fn strengths_of_loras() {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let pipeline = |strength: f64| {
        let builder = Pipeline::builder(files.join("files/sdxl.safetensors"), &Device::flex());
        let builder = builder.config(files.join("sdxl")).recipe("dmd2-1step");
        builder.lora(files.join("files/lora/kohya.safetensors"), strength).build().unwrap()
    };
    let server = Running::new(pipeline(0.7), Settings::default());
    let (_, _, models) = server.ask("/models", None, &[]);
    let models = String::from_utf8(models).unwrap();
    assert!(models.contains(r#""loras":[{"name":"kohya","strength":0.7}]"#), "{models}");
    assert!(!models.contains("golden"), "it shows where files lie: {models}");
    let expected = |strength| {
        pipeline(strength).generate(&Request::new(["red"]).with_seeds([3])).unwrap().pictures.remove(0)
    };
    let (weak, strong) = (expected(0.0), expected(0.7));
    assert!(weak != strong);
    for (asked, expected) in
        [(None, &strong), (Some(0.0), &weak), (Some(0.7), &strong), (Some(-0.5), &weak), (None, &strong)]
    {
        let mut body = json!({"prompt": "red", "seed": 3});
        if let Some(strength) = asked {
            body["loras"] = json!({"kohya": strength});
        }
        let (status, answer) = server.json("/generate", &body);
        assert_eq!(status, 200, "{answer}");
        let png = STANDARD.decode(answer["pictures"][0]["png"].as_str().unwrap()).unwrap();
        if asked == Some(-0.5) {
            assert!(decoded(&png) != weak && decoded(&png) != strong);
        } else {
            assert!(decoded(&png) == *expected, "{asked:?}");
        }
    }
    for (loras, words) in [
        (json!({"other": 1.0}), "there is no LoRA"),
        (json!({"kohya": 5.0}), "from -4 to 4"),
        (json!({"../kohya": 1.0}), "there is no LoRA"),
    ] {
        let (status, answer) = server.json("/generate", &json!({"prompt": "red", "loras": loras}));
        assert!(status == 400 && answer["error"].as_str().unwrap().contains(words), "{answer}");
    }
}

/// With a token the page and `/health` are open, and nothing else.
#[test]
fn a_token_is_asked_for() {
    let settings = Settings {
        token: Some("a long secret".to_owned()),
        origins: vec!["https://example.org".to_owned()],
        ..Settings::default()
    };
    let server = Running::small(settings);
    let body = json!({"prompt": "a red circle"}).to_string();
    for wrong in ["", "Bearer", "Bearer a long secre", "Bearer a long secret.", "Basic a long secret"] {
        assert_eq!(
            server.ask("/generate", Some(&body), &[JSON, ("authorization", wrong)]).0,
            401,
            "{wrong:?}"
        );
    }
    for path in ["/models", "/metrics", "/v1/models"] {
        assert_eq!(server.ask(path, None, &[]).0, 401, "{path}");
    }
    for path in ["/", "/app.js", "/style.css", "/health", "/openapi.json"] {
        assert_eq!(server.ask(path, None, &[]).0, 200, "{path}");
    }
    let right = ("authorization", "Bearer a long secret");
    let from = ("origin", "https://example.org");
    let (status, headers, _) = server.ask("/generate", Some(&body), &[JSON, PNG, right, from]);
    assert_eq!((status, headers.get("access-control-allow-origin")), (200, "https://example.org"));
    assert!(headers.get("access-control-expose-headers").contains("x-drawn-ms"));
}

/// Many clients at once, some of whom leave and some of whom send nonsense: every answer is the client's own picture, requests
/// are drawn together, and none is lost.
#[test]
fn many_clients() {
    const CLIENTS: usize = 16;
    const EACH: usize = 12;
    let prompts = ["a red circle", "a blue square", "a green triangle", "a small yellow circle"];
    let expected: Vec<RgbImage> = (0..8).map(|i| drawn(prompts[i % 4], i as u64)).collect();
    let server = Running::small(Settings::default());
    let client = |client: usize| {
        let (mut answered, mut left, mut refused) = (0, 0, 0);
        for turn in 0..EACH {
            let case = (client * EACH + turn) % 8;
            let body = json!({"prompt": prompts[case % 4], "seed": case}).to_string();
            match (client + turn) % 6 {
                0 => {
                    // Sends its request and goes.
                    let mut stream = TcpStream::connect(server.address).unwrap();
                    let head = format!(
                        "POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    stream.write_all(head.as_bytes()).unwrap();
                    left += 1;
                }
                1 => {
                    assert_eq!(server.ask("/generate", Some("{\"prompt\": "), &[JSON]).0, 400);
                    refused += 1;
                }
                _ => {
                    let (status, _, png) = server.ask("/generate", Some(&body), &[JSON, PNG]);
                    assert_eq!(status, 200);
                    assert!(same(&decoded(&png), &expected[case]), "another client's picture");
                    answered += 1;
                }
            }
        }
        [answered, left, refused]
    };
    let counts = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|i| scope.spawn(move || client(i))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).fold([0; 3], |mut sum, counts| {
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            sum
        })
    });
    assert_eq!(counts.iter().sum::<usize>(), CLIENTS * EACH);
    // Who leaves at once may be gone before the server has read what is wanted; all others are counted.
    let start = Instant::now();
    while server.metric("dmd_waiting") > 0.0 && start.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(50));
    }
    let [answered, left] =
        ["answered", "left"].map(|what| server.metric(&format!("dmd_requests_{what}_total")));
    assert!(
        answered >= counts[0] as f64 && answered + left <= (counts[0] + counts[1]) as f64,
        "{answered}, {left}"
    );
    assert_eq!(server.metric("dmd_requests_refused_total"), counts[2] as f64);
    // Sixteen clients wait while one batch is drawn.
    let (batches, pictures) = (server.metric("dmd_batches_total"), server.metric("dmd_batch_pictures_total"));
    assert!(pictures > 1.1 * batches, "{pictures} pictures in {batches} batches");
}

/// Waits for a metric, and no longer than half a minute.
fn until(server: &Running, name: &str, holds: impl Fn(f64) -> bool) {
    let start = Instant::now();
    while !holds(server.metric(name)) {
        assert!(start.elapsed() < Duration::from_secs(30), "{name} stays {}", server.metric(name));
        thread::sleep(Duration::from_millis(5));
    }
}

/// A server with a teacher, and a request that keeps it busy for so many steps.
fn busy(settings: Settings, steps: usize) -> (Running, String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/shapes");
    let pipeline = Pipeline::from_dir(&folder, &Device::flex()).unwrap();
    let settings = Settings { together: 1, steps: 1000, ..settings };
    let body = json!({"prompt": "a red circle", "steps": steps, "guidance": 2.0}).to_string();
    (Running::new(pipeline, settings), body)
}

/// Beyond the bound a request is refused at once and told when to come back; whose time is over is told so, whichever answer it
/// waits for, and gives up its place.
#[test]
fn bounds() {
    let settings = Settings { waiting: 2, time: Duration::from_secs(6), ..Settings::default() };
    let (server, body) = busy(settings, 900);
    let ask = || server.ask("/generate", Some(&body), &[JSON]);
    let events = || server.ask("/generate", Some(&body), &[JSON, ("accept", "text/event-stream")]);
    thread::scope(|scope| {
        let first = scope.spawn(events);
        until(&server, "dmd_busy", |busy| busy == 1.0);
        let waiting: Vec<_> = (0..2).map(|_| scope.spawn(ask)).collect();
        until(&server, "dmd_waiting", |waiting| waiting == 2.0);
        let (status, headers, body) = ask();
        let said = String::from_utf8(body).unwrap();
        assert!(status == 429 && said.contains("2 requests wait already"), "{status} {said}");
        assert!(headers.get("retry-after").parse::<u64>().unwrap() >= 1);
        for client in waiting {
            assert_eq!(client.join().unwrap().0, 504);
        }
        let text = String::from_utf8(first.join().unwrap().2).unwrap();
        assert!(text.contains("event: error") && text.contains("not drawn within 6 s"), "{text}");
        until(&server, "dmd_waiting", |waiting| waiting == 0.0);
        until(&server, "dmd_busy", |busy| busy == 0.0);
    });
}

/// A client that closes its connection ends the drawing of its picture.
#[test]
fn a_client_leaves() {
    let (server, body) = busy(Settings::default(), 900);
    let mut stream = TcpStream::connect(server.address).unwrap();
    let head = format!(
        "POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).unwrap();
    until(&server, "dmd_busy", |busy| busy == 1.0);
    drop(stream);
    until(&server, "dmd_busy", |busy| busy == 0.0);
    assert_eq!(server.metric("dmd_requests_left_total"), 1.0);
}

/// A stop finishes what is being drawn, refuses what waits, and then nobody listens.
#[test]
fn the_end() {
    let (server, body) = busy(Settings::default(), 400);
    let ask = || server.ask("/generate", Some(&body), &[JSON]).0;
    thread::scope(|scope| {
        let first = scope.spawn(ask);
        until(&server, "dmd_busy", |busy| busy == 1.0);
        let second = scope.spawn(ask);
        until(&server, "dmd_waiting", |waiting| waiting == 1.0);
        server.stop.stop();
        assert_eq!(second.join().unwrap(), 503, "who waits is told so");
        assert_eq!(first.join().unwrap(), 200, "what is being drawn is finished");
    });
    assert!(
        TcpStream::connect_timeout(&server.address, Duration::from_millis(500)).is_err(),
        "it still listens"
    );
}

/// Connections that say nothing, or half of a request, do not keep others from being answered.
#[test]
fn slow_connections() {
    let server = Running::small(Settings { connections: 200, ..Settings::default() });
    let mut open: Vec<TcpStream> = Vec::new();
    for i in 0..100 {
        let mut stream = TcpStream::connect(server.address).unwrap();
        let half = [
            "",
            "POST /generate HT",
            "POST /generate HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{",
        ];
        stream.write_all(half[i % 3].as_bytes()).unwrap();
        open.push(stream);
    }
    let start = Instant::now();
    assert_eq!(server.json("/generate", &json!({"prompt": "a red circle"})).0, 200);
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
    // A head that does not end is given up, and so is a body.
    for (stream, said) in open[1..3].iter_mut().zip(["", "HTTP/1.1 408"]) {
        stream.set_read_timeout(Some(Duration::from_secs(25))).unwrap();
        let mut rest = Vec::new();
        let _closed = stream.read_to_end(&mut rest).unwrap();
        assert!(String::from_utf8_lossy(&rest).starts_with(said), "{rest:?}");
    }
}

/// Few cases, unless the environment asks for more.
fn cases() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(300);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// A server for many cases, of small pictures and few steps.
fn of_cases() -> &'static Running {
    static SERVER: std::sync::OnceLock<Running> = std::sync::OnceLock::new();
    SERVER.get_or_init(|| Running::small(Settings { steps: 3, pictures: 2, ..Settings::default() }))
}

/// Any value that JSON has, likely ones among them.
fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..200_u64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        proptest::collection::vec(any::<u32>(), 0..4).prop_map(Value::from),
        proptest::collection::vec(".{0,8}", 0..3).prop_map(Value::from),
        Just(json!({"kohya": 1.0})),
    ]
}

const KEYS: [&str; 16] = [
    "prompt",
    "prompts",
    "seed",
    "seeds",
    "count",
    "width",
    "height",
    "steps",
    "guidance",
    "guidance_rescale",
    "negative",
    "sampler",
    "loras",
    "n",
    "size",
    "response_format",
];

proptest! {
    #![proptest_config(cases())]

    /// Any object is drawn or refused with a sentence.
    #[test]
    fn any_object(
        fields in proptest::collection::btree_map(proptest::sample::select(&KEYS[..]), any_value(), 0..5),
        likely in any::<bool>(),
        openai in any::<bool>(),
    ) {
        let mut body: serde_json::Map<String, Value> =
            fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        if likely {
            body.insert("prompt".to_owned(), "a red circle".into());
        }
        let path = if openai { "/v1/images/generations" } else { "/generate" };
        let (status, answer) = of_cases().json(path, &body.clone().into());
        let said = answer["error"]["message"].as_str().or(answer["error"].as_str());
        prop_assert!(match status {
            200 => answer["pictures"].is_array() || answer["data"].is_array(),
            400 => said.is_some_and(|said| !said.is_empty()),
            _ => false,
        }, "{body:?}: {status} {answer}");
    }

    /// Whatever is sent, the answer is no server's error, and the next client is served.
    #[test]
    fn nonsense(bytes in proptest::collection::vec(any::<u8>(), 0..200), path in "/[a-z0-9./%]{0,20}", kind in 0..4_usize) {
        let server = of_cases();
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let path = if kind == 0 { path.as_str() } else { "/generate" };
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            bytes.len()
        );
        if kind == 3 {
            stream.write_all(&bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        } else {
            stream.write_all(head.as_bytes()).unwrap();
            let _early = stream.write_all(&bytes);
        }
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        prop_assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
        prop_assert_eq!(server.ask("/health", None, &[]).0, 200);
    }
}
