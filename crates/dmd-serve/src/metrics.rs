//! Counts in Prometheus' text format.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper ends of the classes of times, in seconds.
const CLASSES: [f64; 12] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

/// What happened since the server started.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    answered: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    late: AtomicU64,
    left: AtomicU64,
    pictures: AtomicU64,
    batches: AtomicU64,
    /// Pictures of all batches, those of clients who left included.
    drawn: AtomicU64,
    /// Microseconds of drawing.
    busy: AtomicU64,
    /// Requests that are being drawn.
    drawing: AtomicU64,
    /// Requests by the time from arrival to answer; the last class has no upper end.
    classes: [AtomicU64; CLASSES.len() + 1],
    /// Microseconds of all these.
    took: AtomicU64,
}

fn add(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Metrics {
    pub(crate) fn answered(&self, pictures: usize, took: Duration) {
        add(&self.answered, 1);
        add(&self.pictures, pictures);
        add(&self.took, took.as_micros() as usize);
        let seconds = took.as_secs_f64();
        let class = CLASSES.iter().position(|end| seconds <= *end).unwrap_or(CLASSES.len());
        add(&self.classes[class], 1);
    }

    pub(crate) fn failed(&self) {
        add(&self.failed, 1);
    }

    /// A request was turned away before it was queued.
    pub(crate) fn refused(&self) {
        add(&self.refused, 1);
    }

    /// A request was not drawn in time.
    pub(crate) fn late(&self) {
        add(&self.late, 1);
    }

    /// Clients who left before they had their answer.
    pub(crate) fn left(&self, count: usize) {
        add(&self.left, count);
    }

    /// How many requests are being drawn from now on.
    pub(crate) fn drawing(&self, requests: usize) {
        self.drawing.store(requests as u64, Ordering::Relaxed);
    }

    /// A picture of a batch is drawn.
    pub(crate) fn picture(&self) {
        add(&self.drawn, 1);
    }

    pub(crate) fn batch(&self, took: Duration) {
        add(&self.batches, 1);
        add(&self.busy, took.as_micros() as usize);
    }

    /// How long so many pictures will probably take, by the batches so far.
    pub(crate) fn seconds_for(&self, pictures: usize) -> f64 {
        let drawn = get(&self.drawn).max(1) as f64;
        get(&self.busy) as f64 * 1e-6 / drawn * pictures as f64
    }

    /// The text of `/metrics`.
    pub(crate) fn text(&self, waiting: usize) -> String {
        let mut text = String::new();
        let mut line = |name: &str, kind: &str, help: &str, value: f64| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        let counters = [
            ("dmd_requests_answered_total", "Requests that got their pictures.", &self.answered),
            ("dmd_requests_failed_total", "Requests that could not be drawn.", &self.failed),
            ("dmd_requests_refused_total", "Requests that were refused before they waited.", &self.refused),
            ("dmd_requests_late_total", "Requests that were not drawn in time.", &self.late),
            ("dmd_requests_left_total", "Requests whose client left before the answer.", &self.left),
            ("dmd_pictures_total", "Pictures that were handed out.", &self.pictures),
            ("dmd_batches_total", "Batches that were drawn.", &self.batches),
            ("dmd_batch_pictures_total", "Pictures of all batches.", &self.drawn),
        ];
        for (name, help, counter) in counters {
            line(name, "counter", help, get(counter) as f64);
        }
        line("dmd_busy_seconds_total", "counter", "Time spent drawing.", get(&self.busy) as f64 * 1e-6);
        line("dmd_waiting", "gauge", "Requests that wait now.", waiting as f64);
        line("dmd_busy", "gauge", "Requests that are being drawn now.", get(&self.drawing) as f64);
        let name = "dmd_request_seconds";
        let _ = writeln!(
            text,
            "# HELP {name} Time from a request's arrival to its answer.\n# TYPE {name} histogram"
        );
        let mut sum = 0;
        for (class, counter) in self.classes.iter().enumerate() {
            sum += get(counter);
            let end = CLASSES.get(class).map_or("+Inf".to_owned(), f64::to_string);
            let _ = writeln!(text, "{name}_bucket{{le=\"{end}\"}} {sum}");
        }
        let _ = writeln!(text, "{name}_sum {}\n{name}_count {sum}", get(&self.took) as f64 * 1e-6);
        text
    }
}
