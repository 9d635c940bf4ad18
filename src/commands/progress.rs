//! Progress of training and drawing: a bar on a terminal, a line now and then in a log; and Ctrl-C as a request to
//! stop.

use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use dmd_infer::{Progress as Drawing, Stage};
use dmd_train::report::Alarm;
use dmd_train::run::{Observer, StepReport};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::ranks;
use crate::console::{bar_target, is_quiet, say_err, status};

static STOP: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C a request to stop, with a word about what is kept; the second one ends the program at once.
///
/// # Errors
///
/// When the system does not let the program listen.
pub(crate) fn listen(word: &'static str) -> anyhow::Result<()> {
    ctrlc::set_handler(move || {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        say_err!("\n{word} (a second Ctrl-C stops at once)");
    })
    .context("cannot listen for Ctrl-C")
}

/// Whether Ctrl-C was pressed, or the launcher of several ranks asked to stop.
pub(crate) fn interrupted() -> bool {
    STOP.load(Ordering::SeqCst) || ranks::asked_to_stop()
}

/// What ends a command that Ctrl-C stopped before it was done: the program's status is then 130, as a shell has it.
#[derive(Debug)]
pub(crate) struct Interrupted(pub(crate) String);

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Interrupted {}

/// Shows the losses, the speed and the time left of each stage.
pub(crate) struct Progress {
    stage: Option<Shown>,
}

/// A stage that is being shown.
struct Shown {
    name: &'static str,
    bar: ProgressBar,
    log: Option<Log>,
}

/// Lines in place of a bar, where standard error is no terminal.
struct Log {
    /// Time and steps at the first report, from which the speed is measured.
    start: (Instant, usize),
    last: Instant,
}

/// Time between two lines of a log.
const PAUSE: Duration = Duration::from_secs(20);

/// Longest silence of a log: a step, a chunk of pairs or a probe may take minutes.
const SILENCE: Duration = Duration::from_secs(25);

/// When the log had its last line, and where the work stands.
static STANDING: Mutex<Option<(Instant, String)>> = Mutex::new(None);

/// Says where the work stands, for the line that breaks the next silence.
pub(crate) fn at(text: impl Into<String>) {
    stands(None, text.into());
}

/// Keeps where the work stands; with a moment, a line was printed then.
fn stands(printed: Option<Instant>, text: String) {
    let mut standing = STANDING.lock().unwrap_or_else(PoisonError::into_inner);
    let last = printed.or(standing.as_ref().map(|(last, _)| *last)).unwrap_or_else(Instant::now);
    *standing = Some((last, text));
}

/// The line that breaks a silence which has become too long.
fn overdue(now: Instant) -> Option<String> {
    let mut standing = STANDING.lock().unwrap_or_else(PoisonError::into_inner);
    let (last, text) = standing.as_mut()?;
    if now.saturating_duration_since(*last) < SILENCE {
        return None;
    }
    *last = now;
    Some(if text == "working" { "still working".to_owned() } else { format!("{text}, still working") })
}

/// Breaks no silence any more: who waits for others has nothing to say.
#[cfg(feature = "serve")]
pub(crate) fn quiet() {
    *STANDING.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Breaks silences where standard error is no terminal, from a thread of its own, which ends with the program.
pub(crate) fn break_silences() {
    if stderr().is_terminal() || is_quiet() {
        return;
    }
    stands(Some(Instant::now()), "working".to_owned());
    thread::spawn(|| {
        loop {
            thread::sleep(Duration::from_secs(2));
            if let Some(line) = overdue(Instant::now()) {
                say_err!("{line}");
            }
        }
    });
}

impl Progress {
    /// Ends cleanly on Ctrl-C; a second Ctrl-C ends the program at once.
    pub(crate) fn new() -> anyhow::Result<Self> {
        listen("stopping after this step; what is done is kept")?;
        Ok(Self { stage: None })
    }

    /// A line of its own, above the bar.
    fn tell(&self, line: String) {
        match &self.stage {
            Some(shown) if shown.log.is_none() => shown.bar.println(line),
            _ => status!("{line}"),
        }
    }
}

impl Shown {
    fn new(report: &StepReport<'_>) -> Self {
        let style = "{prefix:14} {bar:24} {pos}/{len} {per_sec}, {eta} left  {msg}";
        let before = report.step.saturating_sub(1);
        let bar = ProgressBar::with_draw_target(Some(report.steps as u64), bar_target());
        bar.set_position(before as u64);
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(report.stage);
        bar.reset_eta();
        let now = Instant::now();
        let log = (!stderr().is_terminal()).then_some(Log { start: (now, report.step), last: now });
        if log.is_some() {
            status!("{}  {}", place(report), losses(report));
            stands(Some(now), place(report));
        }
        Self { name: report.stage, bar, log }
    }

    fn update(&mut self, report: &StepReport<'_>) {
        self.bar.set_message(losses(report));
        self.bar.set_position(report.step as u64);
        let Some(log) = &mut self.log else { return };
        let now = Instant::now();
        let line = log.due(report, now);
        stands(line.is_some().then_some(now), place(report));
        if let Some(line) = line {
            status!("{line}");
        }
    }
}

impl Log {
    /// The line that a report is due at a moment: one after every pause, and one at the last step.
    fn due(&mut self, report: &StepReport<'_>, now: Instant) -> Option<String> {
        let done = report.step.saturating_sub(self.start.1);
        if done == 0 || (now - self.last < PAUSE && report.step < report.steps) {
            return None;
        }
        self.last = now;
        let seconds = (now - self.start.0).as_secs_f64() / done as f64;
        let left = Duration::from_secs_f64(seconds * (report.steps - report.step) as f64);
        Some(line(report, seconds, left))
    }
}

/// A line of a log.
fn line(report: &StepReport<'_>, seconds: f64, left: Duration) -> String {
    let speed = match seconds < 1.0 {
        true => format!("{:.1} steps/s", 1.0 / seconds.max(f64::MIN_POSITIVE)),
        false => format!("{seconds:.1} s/step"),
    };
    format!("{}  {speed}, {} left  {}", place(report), HumanDuration(left), losses(report))
}

/// How far a stage is.
fn place(report: &StepReport<'_>) -> String {
    format!("{} {}/{}", report.stage, report.step, report.steps)
}

fn losses(report: &StepReport<'_>) -> String {
    report.losses.iter().map(|(name, value)| format!("{name} {value:.4}")).collect::<Vec<_>>().join("  ")
}

impl Observer for Progress {
    fn on_step(&mut self, report: &StepReport<'_>) {
        match &mut self.stage {
            Some(shown) if shown.name == report.stage => shown.update(report),
            _ => self.stage.insert(Shown::new(report)).update(report),
        }
    }

    fn on_evaluation(&mut self, report: &StepReport<'_>) {
        self.tell(format!("{} evaluated  {}", place(report), losses(report)));
    }

    fn on_alarm(&mut self, alarm: &Alarm) {
        let line = format!("warning: {alarm}");
        // A warning is printed whatever else is left out.
        if is_quiet() { say_err!("{line}") } else { self.tell(line) }
    }

    fn stopped(&self) -> bool {
        interrupted()
    }
}

/// The steps of a picture being drawn; nothing for a single one.
pub(crate) struct Steps {
    bar: ProgressBar,
}

impl Steps {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let bar = ProgressBar::hidden();
        bar.set_style(ProgressStyle::with_template("{msg} {bar:24} {pos}/{len} {eta} left")?);
        Ok(Self { bar })
    }
}

impl dmd_infer::Observer for Steps {
    fn on_stage(&mut self, stage: Stage) {
        if stage == Stage::Decoding {
            self.bar.finish_and_clear();
        }
    }

    fn on_step(&mut self, progress: &Drawing<'_>) {
        if progress.steps > 1 && progress.step == 1 {
            self.bar.set_draw_target(bar_target());
            self.bar.set_message("drawing");
            self.bar.set_length(progress.steps as u64);
        }
        self.bar.set_position(progress.step as u64);
        at(format!(
            "picture {} drawn, {} of {} steps",
            progress.pictures.start + 1,
            progress.step,
            progress.steps
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step that takes minutes does not silence a log.
    #[test]
    fn a_silence_is_broken() {
        let start = Instant::now();
        stands(Some(start), "distillation 3/9".to_owned());
        assert_eq!(overdue(start + Duration::from_secs(24)), None);
        let line = "distillation 3/9, still working".to_owned();
        assert_eq!(overdue(start + Duration::from_secs(25)), Some(line.clone()));
        assert_eq!(overdue(start + Duration::from_secs(49)), None, "the silence counts from the last line");
        stands(None, "distillation 4/9".to_owned());
        let line = line.replace('3', "4");
        assert_eq!(overdue(start + Duration::from_secs(50)), Some(line));
    }

    /// A log has a line after every pause and at the last step, with the speed and the time left since the first
    /// report, whose own line is printed where the stage begins.
    #[test]
    fn a_log_has_a_line_now_and_then() {
        let start = Instant::now();
        let mut log = Log { start: (start, 5), last: start };
        let mut due = |step: usize, seconds: u64| {
            let losses = [("fake", 0.25)];
            let report = StepReport { stage: "distillation", step, steps: 35, losses: &losses, seconds: 0.0 };
            log.due(&report, start + Duration::from_secs(seconds))
        };
        assert_eq!(due(5, 0), None);
        assert_eq!(due(14, 19), None);
        let line = "distillation 15/35  2.0 s/step, 40 seconds left  fake 0.2500".to_owned();
        assert_eq!(due(15, 20), Some(line));
        assert_eq!(due(24, 39), None, "the pause counts from the last line");
        let line = "distillation 25/35  2.0 s/step, 20 seconds left  fake 0.2500".to_owned();
        assert_eq!(due(25, 40), Some(line));
        let line = "distillation 35/35  1.4 s/step, 0 seconds left  fake 0.2500".to_owned();
        assert_eq!(due(35, 42), Some(line), "the last step has a line at once");
    }
}
