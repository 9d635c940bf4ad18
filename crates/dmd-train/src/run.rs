//! The loop around every training: logging, picture grids, checkpoints, a clean stop.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dmd_core::Noise;
use image::RgbImage;

use crate::NotFinite;
use crate::checkpoint::{self, RunState, newest};
use crate::fingerprint::Fingerprint;
use crate::report::{self, Alarm};
use crate::{Alone, Collective, Error, Figures, agree, any, metrics, together};

pub use crate::pace::Pace;

/// A training that advances by steps.
pub trait Stage {
    /// Short name, used for file names: `autoencoder`, `diffusion`, `distillation`.
    fn name(&self) -> &'static str;

    /// What the training depends on. A checkpoint that was made from something else is not resumed.
    fn made_from(&self) -> Fingerprint;

    /// One step of the optimiser; its figures stay on the device.
    ///
    /// # Errors
    ///
    /// What the data source returns.
    fn step(&mut self) -> Result<Figures, Error>;

    /// Writes everything the stage needs to go on into an empty folder, but the step and the position of its noise.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    fn save(&self, folder: &Path) -> Result<(), Error>;

    /// Reads what [`Self::save`] wrote after `steps` steps.
    ///
    /// # Errors
    ///
    /// When a file is missing or of another configuration.
    fn load(&mut self, folder: &Path, steps: usize) -> Result<(), Error>;

    /// The ranks that train together; the default is one process by itself.
    fn ranks(&self) -> &dyn Collective {
        &Alone
    }

    /// The stream of the stage's random numbers.
    fn noise(&mut self) -> &mut Noise;

    /// A few pictures, and figures measured on them, that show where the training stands; `None` when `stopped` said
    /// so before they were done.
    ///
    /// # Errors
    ///
    /// What the data source returns.
    fn probe(&self, stopped: &dyn Fn() -> bool) -> Result<Option<Probe>, Error>;
}

/// Where a training stands, to look at.
#[derive(Debug, Clone, Default)]
pub struct Probe {
    /// Pictures of one size.
    pub pictures: Vec<RgbImage>,
    /// Figures by name, for `metrics.jsonl`.
    pub figures: Vec<(&'static str, f64)>,
}

/// What a run reports to the outside, and asks it.
pub trait Observer {
    /// Called after every step.
    fn on_step(&mut self, report: &StepReport<'_>);

    /// Called when a figure leaves the band in which a run is healthy.
    fn on_alarm(&mut self, _alarm: &Alarm) {}

    /// Whether to stop now, with a checkpoint.
    fn stopped(&self) -> bool;
}

/// One step as the observer sees it.
#[derive(Debug)]
pub struct StepReport<'a> {
    /// The stage's name.
    pub stage: &'static str,
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// The figures that were read last, by name.
    pub losses: &'a [(&'static str, f64)],
    /// Seconds spent in this stage, earlier sessions included.
    pub seconds: f64,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every step was done.
    Finished,
    /// The observer asked to stop; a checkpoint was written.
    Stopped,
}

/// Figures are read at least this often, for the observer, however seldom they are logged.
const READ_EVERY: Duration = Duration::from_secs(20);

/// Runs a stage from its newest checkpoint, if one exists, to the end.
///
/// Of several ranks ([`Stage::ranks`]) all call this with one folder, which all can read. Rank 0 alone writes
/// checkpoints, `metrics.jsonl` and grids. A request to stop, of whatever rank, stops all after the same step, and a run
/// may go on with another number of ranks.
///
/// # Errors
///
/// [`Error::Diverged`] when figures that are not finite are read, before a checkpoint could record it;
/// [`Error::Changed`] when the checkpoint was made from other settings; [`Error::Rank`] when another rank failed, or has
/// another stage or pace; otherwise what the stage or the file system returns.
pub fn run(
    stage: &mut dyn Stage,
    pace: &Pace,
    folder: &Path,
    observer: &mut dyn Observer,
) -> Result<Outcome, Error> {
    let mut run = Run::resume(stage, pace, folder)?;
    if run.may_have_missed_a_probe() {
        let probed = if run.grid().exists() { Ok(()) } else { run.probe(observer) };
        run.together(probed)?;
    }
    while run.step < pace.steps {
        let figures = run.stage.step()?;
        run.step += 1;
        let last = run.step == pace.steps;
        let due = |every: usize| last || run.step.is_multiple_of(every.max(1));
        let (logs, saves, probes) = (due(pace.log_every), due(pace.checkpoint_every), due(pace.grid_every));
        // Ranks that train together read the same figures at the same steps; they have waited for the device anyway.
        let several = run.stage.ranks().size() > 1;
        if logs || saves || probes || several || run.read_at.elapsed() >= READ_EVERY {
            run.read(&figures, observer)?;
        }
        let report = run.report();
        observer.on_step(&report);
        let logged = if logs { run.log(&report) } else { Ok(()) };
        run.together(logged)?;
        let stops = any(run.stage.ranks(), observer.stopped())? && !last;
        // What was computed is safe before anything else is tried with it.
        if saves || stops {
            run.read(&figures, observer)?;
            let saved = run.save();
            run.together(saved)?;
        }
        if stops {
            return Ok(Outcome::Stopped);
        }
        if probes {
            let probed = run.probe(observer);
            run.together(probed)?;
        }
    }
    Ok(Outcome::Finished)
}

/// Loads the newest checkpoint of a stage; its step, and the seconds of earlier sessions.
fn load_newest(stage: &mut dyn Stage, folder: &Path) -> Result<(usize, f64), Error> {
    let Some(checkpoint) = newest(folder, stage.name()) else {
        return Ok((0, 0.0));
    };
    let state = RunState::read(&checkpoint)?;
    state.check(&checkpoint, &stage.made_from())?;
    stage.load(&checkpoint, state.step)?;
    state.seek(stage.noise(), &checkpoint)?;
    Ok((state.step, state.seconds))
}

/// A run between two steps.
struct Run<'a> {
    stage: &'a mut dyn Stage,
    pace: &'a Pace,
    folder: &'a Path,
    step: usize,
    saved: usize,
    /// Seconds of earlier sessions.
    before: f64,
    start: Instant,
    read_at: Instant,
    /// The step whose figures were read last, and these.
    read_step: usize,
    losses: Vec<(&'static str, f64)>,
    alarmed: Vec<&'static str>,
}

impl<'a> Run<'a> {
    /// Loads the newest checkpoint, and makes up for a probe that its session did not come to.
    fn resume(stage: &'a mut dyn Stage, pace: &'a Pace, folder: &'a Path) -> Result<Self, Error> {
        let settings = format!("{} {} {pace:?}", stage.name(), stage.made_from().text());
        agree(stage.ranks(), settings.as_bytes(), "was started with other settings than rank 0")?;
        let loaded = load_newest(stage, folder);
        let (step, before) = together(stage.ranks(), loaded)?;
        agree(stage.ranks(), &step.to_le_bytes(), "finds another checkpoint than rank 0")?;
        let forgotten = match stage.ranks().rank() {
            0 => metrics::forget_after(folder, stage.name(), step),
            _ => Ok(()),
        };
        together(stage.ranks(), forgotten)?;
        let now = Instant::now();
        let (losses, alarmed) = (Vec::new(), Vec::new());
        let (start, read_at, saved, read_step) = (now, now, step, step);
        Ok(Self { stage, pace, folder, step, saved, before, start, read_at, read_step, losses, alarmed })
    }

    /// Whether this is the rank that writes files.
    fn writes(&self) -> bool {
        self.stage.ranks().rank() == 0
    }

    /// What all ranks make of a part of the work that one of them does.
    fn together(&self, result: Result<(), Error>) -> Result<(), Error> {
        together(self.stage.ranks(), result)
    }

    fn log(&self, report: &StepReport<'_>) -> Result<(), Error> {
        if self.writes() { metrics::append(self.folder, report) } else { Ok(()) }
    }

    fn seconds(&self) -> f64 {
        self.before + self.start.elapsed().as_secs_f64()
    }

    fn report(&self) -> StepReport<'_> {
        StepReport {
            stage: self.stage.name(),
            step: self.step,
            steps: self.pace.steps,
            losses: &self.losses,
            seconds: self.seconds(),
        }
    }

    /// Waits for the device and takes over the figures of the present step, once.
    fn read(&mut self, figures: &Figures, observer: &mut dyn Observer) -> Result<(), Error> {
        if self.read_step == self.step {
            return Ok(());
        }
        self.losses = figures.read().map_err(|NotFinite { term, value }| {
            let (checkpoint, saved) = (newest(self.folder, self.stage.name()), self.saved);
            Error::Diverged { step: self.step, term, value, checkpoint, saved }
        })?;
        (self.read_step, self.read_at) = (self.step, Instant::now());
        for (term, value) in &self.losses {
            if !report::healthy(term, *value) && !self.alarmed.contains(term) {
                self.alarmed.push(*term);
                let figure = format!("{}: {term}", self.stage.name());
                observer.on_alarm(&Alarm { figure, step: self.step as u64, value: *value });
            }
        }
        Ok(())
    }

    fn save(&mut self) -> Result<(), Error> {
        if self.writes() {
            let seconds = self.seconds();
            let state = RunState::of(self.stage, self.step, seconds);
            checkpoint::write(self.folder, self.stage, &state, self.pace.keep)?;
        }
        self.saved = self.step;
        Ok(())
    }

    fn grid(&self) -> PathBuf {
        self.folder.join("grids").join(format!("{}-{:06}.png", self.stage.name(), self.step))
    }

    /// Whether an earlier session may have ended between the checkpoint of the present step and its probe.
    fn may_have_missed_a_probe(&self) -> bool {
        let due = self.step == self.pace.steps || self.step.is_multiple_of(self.pace.grid_every.max(1));
        self.step > 0 && due
    }

    /// Logs the figures of a probe and writes its grid.
    fn probe(&self, observer: &dyn Observer) -> Result<(), Error> {
        if !self.writes() {
            return Ok(());
        }
        let Some(probe) = self.stage.probe(&|| observer.stopped())? else {
            return Ok(()); // asked to stop: the checkpoint is written
        };
        if !probe.figures.is_empty() {
            metrics::append(self.folder, &StepReport { losses: &probe.figures, ..self.report() })?;
        }
        if !probe.pictures.is_empty() {
            dmd_data::save(&dmd_data::grid(&probe.pictures, 8), &self.grid())?;
        }
        Ok(())
    }
}
