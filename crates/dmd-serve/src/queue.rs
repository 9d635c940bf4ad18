//! Requests that wait, and the thread that draws them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dmd_infer::{Error, Observer, Pipeline, Progress, Request, encode_png};
use image::RgbImage;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{RwLock, RwLockReadGuard};

use crate::Settings;
use crate::answer::{Answer, Failure, Picture};
use crate::loras::Loras;
use crate::metrics::Metrics;
use crate::wanted::{Body, Wanted};

/// Most previews of one picture.
const PREVIEWS: usize = 10;

/// What a waiting client is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// A network call is done, of so many.
    Step { step: usize, steps: usize, preview: Option<Vec<u8>> },
    /// The end.
    Done(Result<Answer, Failure>),
}

/// A request in the queue. The client has left when its receiver is gone.
struct Job {
    wanted: Wanted,
    previews: bool,
    events: UnboundedSender<Event>,
    since: Instant,
    /// When its time is over.
    until: Instant,
}

impl Job {
    fn left(&self) -> bool {
        self.events.is_closed()
    }

    /// Nobody waits for it any more.
    fn over(&self) -> bool {
        self.left() || Instant::now() >= self.until
    }

    /// Tells a client who still waits that its time is over, and counts.
    fn give_up(self, metrics: &Metrics) {
        if self.left() {
            return metrics.left(1);
        }
        metrics.late();
        let seconds = (self.until - self.since).as_secs();
        let _gone = self.events.send(Event::Done(Err(Failure::Late(seconds))));
    }
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Job>,
    stopping: bool,
}

struct Shared {
    line: Mutex<Line>,
    /// Something arrived, or the server stops.
    arrived: Condvar,
    /// Changed where requests ask for other strengths of LoRA files, by the drawing thread alone.
    pipeline: RwLock<Pipeline>,
    loras: Loras,
    settings: Settings,
    metrics: Metrics,
}

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queue. Dropping it lets the thread finish what it draws, and ends it.
pub(crate) struct Queue {
    shared: Arc<Shared>,
    drawer: Option<JoinHandle<()>>,
}

impl Queue {
    pub(crate) fn new(pipeline: Pipeline, settings: Settings) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            line: Mutex::default(),
            arrived: Condvar::new(),
            loras: Loras::of(&pipeline),
            pipeline: RwLock::new(pipeline),
            settings,
            metrics: Metrics::default(),
        });
        let own = shared.clone();
        let drawer = thread::Builder::new().name("drawing".to_owned()).spawn(move || own.draw())?;
        Ok(Self { shared, drawer: Some(drawer) })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// The pipeline, as soon as it is not being changed.
    pub(crate) async fn pipeline(&self) -> RwLockReadGuard<'_, Pipeline> {
        self.shared.pipeline.read().await
    }

    pub(crate) fn loras(&self) -> &Loras {
        &self.shared.loras
    }

    /// What a body asks for, if the server allows it and the model can draw it.
    pub(crate) async fn wanted(&self, body: Body) -> Result<Wanted, Failure> {
        body.wanted(self.settings(), &*self.pipeline().await, self.loras())
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// How many requests wait.
    pub(crate) fn waiting(&self) -> usize {
        let mut line = self.shared.line();
        line.give_up(&self.shared.metrics);
        line.waiting.len()
    }

    /// Puts a request at the end of the queue; the client leaves by dropping what it gets.
    pub(crate) fn push(&self, wanted: Wanted, previews: bool) -> Result<UnboundedReceiver<Event>, Failure> {
        let (events, receiver) = unbounded_channel();
        let mut line = self.shared.line();
        if line.stopping {
            return Err(Failure::Stopping);
        }
        line.give_up(&self.shared.metrics);
        let waiting = line.waiting.len();
        if waiting >= self.shared.settings.waiting {
            let pictures = line.waiting.iter().map(|job| job.wanted.prompts.len()).sum();
            let seconds = self.shared.metrics.seconds_for(pictures).ceil().max(1.0) as u64;
            return Err(Failure::Full { waiting, seconds });
        }
        let since = Instant::now();
        let until = since + self.shared.settings.time;
        line.waiting.push_back(Job { wanted, previews, events, since, until });
        self.shared.arrived.notify_one();
        Ok(receiver)
    }

    /// Refuses new requests and those that wait; what is being drawn is finished.
    pub(crate) fn stop(&self) {
        let mut line = self.shared.line();
        line.stopping = true;
        for job in line.waiting.drain(..) {
            self.shared.metrics.refused();
            let _gone = job.events.send(Event::Done(Err(Failure::Stopping)));
        }
        self.shared.arrived.notify_all();
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.stop();
        if let Some(drawer) = self.drawer.take() {
            let _panicked = drawer.join();
        }
    }
}

impl Line {
    /// Ends requests whose clients left, or whose time is over.
    fn give_up(&mut self, metrics: &Metrics) {
        let (over, waiting) = self.waiting.drain(..).partition(Job::over);
        self.waiting = waiting;
        let over: VecDeque<Job> = over;
        over.into_iter().for_each(|job| job.give_up(metrics));
    }
}

impl Shared {
    /// The drawing thread.
    fn draw(&self) {
        while let Some(jobs) = self.next() {
            let start = Instant::now();
            self.metrics.drawing(jobs.len());
            self.draw_together(jobs);
            self.metrics.drawing(0);
            self.metrics.batch(start.elapsed());
        }
    }

    /// The oldest request with those behind it that are of its kind; `None` when the server stops.
    fn next(&self) -> Option<Vec<Job>> {
        let mut line = self.line();
        loop {
            line.give_up(&self.metrics);
            if let Some(first) = line.waiting.pop_front() {
                let pipeline = self.pipeline.blocking_read();
                let size = first.wanted.kind.size(&pipeline);
                // More than go through the networks at a time would make the first wait for the last.
                let most = self.settings.together.min(pipeline.together(size));
                drop(pipeline);
                let mut count = first.wanted.prompts.len();
                let mut jobs = vec![first];
                let mut place = 0;
                while place < line.waiting.len() {
                    let other = &line.waiting[place].wanted;
                    let more = other.prompts.len();
                    let fits = count + more <= most && other.kind == jobs[0].wanted.kind;
                    match if fits { line.waiting.remove(place) } else { None } {
                        Some(job) => {
                            count += more;
                            jobs.push(job);
                        }
                        None => place += 1,
                    }
                }
                return Some(jobs);
            }
            if line.stopping {
                return None;
            }
            line = self.arrived.wait(line).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives the pipeline's LoRA files other strengths, where it has others.
    fn set_strengths(&self, strengths: &[f64]) -> Result<(), Failure> {
        let has = |pipeline: &Pipeline| {
            pipeline.loras().iter().map(|lora| lora.strength).eq(strengths.iter().copied())
        };
        if has(&self.pipeline.blocking_read()) {
            return Ok(());
        }
        let changed = self.pipeline.blocking_write().set_loras(self.loras.at(strengths));
        changed.map_err(|error| match Failure::of(error) {
            Failure::Request(sentence) => Failure::Drawing(sentence),
            failure => failure,
        })
    }

    /// Draws some requests as one. Where that fails, each gets its own answer.
    fn draw_together(&self, jobs: Vec<Job>) {
        if let Err(failure) = self.set_strengths(jobs[0].wanted.kind.strengths()) {
            for job in jobs {
                self.metrics.failed();
                let _gone = job.events.send(Event::Done(Err(failure.clone())));
            }
            return;
        }
        let pipeline = self.pipeline.blocking_read();
        let request = jobs[0].wanted.kind.request(jobs.iter().map(|job| &job.wanted));
        let start = Instant::now();
        let mut batch =
            Batch { shared: self, pipeline: &pipeline, request: &request, jobs: Vec::new(), start };
        let mut first = 0;
        for job in jobs {
            let count = job.wanted.prompts.len();
            batch.jobs.push(Drawn { first, count, job: Some(job), pictures: Vec::new() });
            first += count;
        }
        let drawn = catch_unwind(AssertUnwindSafe(|| pipeline.generate_each(&request, &mut batch)));
        let failure = match drawn {
            Ok(Ok(_) | Err(Error::Cancelled { .. })) => None,
            Ok(Err(error)) => Some(Failure::of(error)),
            Err(_) => Some(Failure::Drawing(
                "drawing ended unexpectedly; the server's own output says why".to_owned(),
            )),
        };
        let rest: Vec<Job> = batch.jobs.into_iter().filter_map(|drawn| drawn.job).collect();
        drop(pipeline);
        let Some(failure) = failure else {
            // Only requests that nobody waits for can be without an answer.
            rest.into_iter().for_each(|job| job.give_up(&self.metrics));
            return;
        };
        match <[Job; 1]>::try_from(rest) {
            Ok([job]) => {
                self.metrics.failed();
                let _gone = job.events.send(Event::Done(Err(failure)));
            }
            Err(several) => several.into_iter().for_each(|job| self.draw_together(vec![job])),
        }
    }
}

/// Requests that are being drawn together.
struct Batch<'a> {
    shared: &'a Shared,
    pipeline: &'a Pipeline,
    request: &'a Request,
    jobs: Vec<Drawn>,
    start: Instant,
}

/// A request with the pictures that it has already.
struct Drawn {
    /// The place of its first picture in the batch.
    first: usize,
    /// Its pictures.
    count: usize,
    /// Gone once it is answered.
    job: Option<Job>,
    pictures: Vec<Picture>,
}

impl Drawn {
    fn over(&self) -> bool {
        self.job.as_ref().is_none_or(Job::over)
    }
}

impl Batch<'_> {
    fn picture(&self, place: usize, seed: u64, picture: &RgbImage) -> Result<Picture, Failure> {
        let size = picture.dimensions();
        let text = self.pipeline.describe(self.request, place, size, &self.shared.settings.model);
        let png = encode_png(picture, &[("parameters", &text)]).map_err(Failure::of)?;
        Ok(Picture { prompt: self.request.prompts[place].clone(), seed, png })
    }

    /// The first picture of a request as it stands, where one is due.
    fn preview(&self, progress: &Progress<'_>, row: usize) -> Option<Vec<u8>> {
        let each = progress.steps.div_ceil(PREVIEWS).max(1);
        if progress.step == progress.steps || !progress.step.is_multiple_of(each) {
            return None;
        }
        let x0 = progress.x0.clone().narrow(0, row, 1);
        let pictures = self.pipeline.decode(x0).ok()?;
        encode_png(pictures.first()?, &[]).ok()
    }
}

impl Observer for Batch<'_> {
    fn on_step(&mut self, progress: &Progress<'_>) {
        if progress.steps == 1 {
            return;
        }
        for drawn in &self.jobs {
            let Some(job) = drawn.job.as_ref().filter(|job| !job.over()) else { continue };
            if !progress.pictures.contains(&drawn.first) {
                continue;
            }
            let row = drawn.first - progress.pictures.start;
            let preview = if job.previews { self.preview(progress, row) } else { None };
            let event = Event::Step { step: progress.step, steps: progress.steps, preview };
            let _gone = job.events.send(event);
        }
    }

    fn on_picture(&mut self, place: usize, seed: u64, picture: &RgbImage) {
        let together = self.request.prompts.len();
        self.shared.metrics.picture();
        let of_place = |drawn: &Drawn| (drawn.first..drawn.first + drawn.count).contains(&place);
        let Some(index) = self.jobs.iter().position(of_place).filter(|index| self.jobs[*index].job.is_some())
        else {
            return;
        };
        let found = self.picture(place, seed, picture);
        let drawn = &mut self.jobs[index];
        let outcome = match found {
            Ok(picture) => {
                drawn.pictures.push(picture);
                if drawn.pictures.len() < drawn.count {
                    return;
                }
                Ok(std::mem::take(&mut drawn.pictures))
            }
            Err(failure) => Err(failure),
        };
        let Some(job) = drawn.job.take() else { return };
        let waited = self.start.saturating_duration_since(job.since);
        let answer =
            outcome.map(|pictures| Answer { pictures, waited, drawn: self.start.elapsed(), together });
        match &answer {
            Ok(answer) if !job.left() => {
                self.shared.metrics.answered(answer.pictures.len(), job.since.elapsed())
            }
            Ok(_) => self.shared.metrics.left(1),
            Err(_) => self.shared.metrics.failed(),
        }
        let _gone = job.events.send(Event::Done(answer));
    }

    fn cancelled(&self) -> bool {
        self.jobs.iter().all(Drawn::over)
    }
}

/// Waits for the answer to a request, and no longer than a time: the drawing thread looks at the clock between two calls of a
/// network alone.
pub(crate) async fn answer(mut events: UnboundedReceiver<Event>, time: Duration) -> Result<Answer, Failure> {
    let last = async {
        while let Some(event) = events.recv().await {
            if let Event::Done(answer) = event {
                return answer;
            }
        }
        Err(Failure::Stopping)
    };
    tokio::time::timeout(time, last).await.unwrap_or(Err(Failure::Late(time.as_secs())))
}
