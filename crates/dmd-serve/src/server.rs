//! The listening socket, its connections, and the way to stop.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use dmd_infer::Pipeline;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;

use crate::queue::Queue;
use crate::{Settings, api, guard, openai, page};

/// Time for a request's head to arrive.
const HEAD: Duration = Duration::from_secs(10);
/// Time in which a client must take something of its answer.
const READING: Duration = Duration::from_secs(30);

/// What all requests share.
pub(crate) struct App {
    pub(crate) queue: Queue,
    pub(crate) address: SocketAddr,
    /// Pictures behind OpenAI's `url` answers, the newest last.
    pub(crate) kept: Mutex<VecDeque<(String, Vec<u8>)>>,
}

impl App {
    pub(crate) fn kept(&self) -> std::sync::MutexGuard<'_, VecDeque<(String, Vec<u8>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server that listens, and does not answer before [`Self::run`].
pub struct Server {
    listener: std::net::TcpListener,
    address: SocketAddr,
    pipeline: Pipeline,
    settings: Settings,
    stop: Stop,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Stops a server from anywhere: what is being drawn is finished and sent.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    /// Asks the server to stop.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Server {
    /// Listens on an address; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on, or an origin is none.
    pub fn bind(address: SocketAddr, pipeline: Pipeline, mut settings: Settings) -> io::Result<Self> {
        guard::check(&settings).map_err(|sentence| io::Error::new(io::ErrorKind::InvalidInput, sentence))?;
        let (height, width) = pipeline.default_size();
        settings.side.get_or_insert(2 * height.max(width));
        settings.kept = settings.kept.max(settings.pictures);
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = Stop(Arc::new(watch::channel(false).0));
        Ok(Self { listener, address, pipeline, settings, stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What stops it.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Answers until it is stopped.
    ///
    /// # Errors
    ///
    /// When the threads cannot be started.
    pub fn run(self) -> io::Result<()> {
        let Self { listener, address, pipeline, settings, stop } = self;
        let connections = settings.connections;
        let queue = Queue::new(pipeline, settings)?;
        let app = Arc::new(App { queue, address, kept: Mutex::default() });
        // Drawing has the processors; this is for waiting and copying.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let outcome = runtime.block_on(serve(listener, app.clone(), connections, stop));
        runtime.shutdown_timeout(Duration::from_secs(1));
        outcome
    }
}

/// Everything that is answered.
fn routes(app: Arc<App>) -> Router {
    let settings = app.queue.settings();
    let guarded = Router::new()
        .route("/generate", post(api::generate))
        .route("/models", get(api::models))
        .route("/v1/models", get(openai::models))
        .route("/v1/images/generations", post(openai::generations))
        .route("/metrics", get(api::metrics))
        .layer(from_fn_with_state(app.clone(), guard::token));
    let guarded = match guard::origins(settings) {
        Some(layer) => guarded.layer(layer),
        None => guarded,
    };
    Router::new()
        .route("/", get(page::page))
        .route("/app.js", get(page::script))
        .route("/style.css", get(page::style))
        .route("/openapi.json", get(page::openapi))
        .route("/health", get(api::health))
        .route("/pictures/{name}", get(openai::picture))
        .merge(guarded)
        .fallback(api::unknown)
        .layer(from_fn_with_state(app.clone(), guard::host))
        .with_state(app)
}

async fn serve(
    listener: std::net::TcpListener,
    app: Arc<App>,
    connections: usize,
    stop: Stop,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let routes = routes(app.clone());
    let room = Arc::new(Semaphore::new(connections));
    let graceful = GracefulShutdown::new();
    let mut stopped = stop.0.subscribe();
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        let Ok((stream, _)) = accepted else {
            // Too many open files, for one: wait instead of asking again at once.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Beyond the limit a connection is closed; a client then tries again.
        let Ok(place) = room.clone().try_acquire_owned() else { continue };
        let _slow = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(READING));
        let service = TowerToHyperService::new(routes.clone());
        let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            hyper::service::Service::call(&service, request)
        });
        let connection = graceful.watch(http.serve_connection(TokioIo::new(Box::pin(stream)), service));
        tokio::spawn(async move {
            let _broken = connection.await;
            drop(place);
        });
    }
    drop(listener);
    app.queue.stop();
    // What is being drawn has its own time, a head has its own, and so has a slow reader.
    let farewell = app.queue.settings().time + HEAD + READING;
    let _late = tokio::time::timeout(farewell, graceful.shutdown()).await;
    Ok(())
}
