//! The loop around every training: logging, picture grids, checkpoints, a clean stop.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use dmd_core::Noise;
use image::RgbImage;

use crate::NotFinite;
use crate::alarms::{Alarm, Watch};
use crate::checkpoint::{self, RunState, newest};
use crate::events::Events;
use crate::fingerprint::Fingerprint;
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

    /// How many samples one step is made of, on all ranks together, for the speed in `metrics.jsonl`; the default does
    /// not know.
    fn samples_per_step(&self) -> Option<usize> {
        None
    }

    /// The device that computes, for its memory in `metrics.jsonl`; the default does not tell.
    fn device(&self) -> Option<&Device> {
        None
    }

    /// A few pictures, and figures measured on them, that show where the training stands; `None` when `stopped` said
    /// so before they were done.
    ///
    /// # Errors
    ///
    /// What the data source returns.
    fn probe(&self, stopped: &dyn Fn() -> bool) -> Result<Option<Probe>, Error>;

    /// After how many steps [`Self::evaluate`] is called, besides the last one; the default is never.
    fn evaluate_every(&self) -> Option<usize> {
        None
    }

    /// Figures of many pictures, by which checkpoints are compared; `None` when `stopped` said so before they were done.
    /// Of several ranks the first alone is asked. It must leave [`Self::noise`] where it is.
    ///
    /// # Errors
    ///
    /// What the data source or a measure returns.
    fn evaluate(&self, _stopped: &dyn Fn() -> bool) -> Result<Option<Vec<(&'static str, f64)>>, Error> {
        Ok(Some(Vec::new()))
    }
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

    /// Called after an evaluation, with its figures.
    fn on_evaluation(&mut self, _report: &StepReport<'_>) {}

    /// Called when a figure leaves the range of a healthy run; once for each figure and reason.
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
    if run.step > 0 && run.evaluates() && !run.evaluate(observer)? {
        return Ok(Outcome::Stopped);
    }
    run.clock = Clock::at(run.step);
    while run.step < pace.steps {
        let figures = run.stage.step()?;
        run.step += 1;
        let last = run.step == pace.steps;
        let due = |every: usize| last || run.step.is_multiple_of(every.max(1));
        let (logs, probes, evaluates) = (due(pace.log_every), due(pace.grid_every), run.evaluates());
        // What is evaluated can be exported, and an evaluation that was broken off is made again.
        let saves = due(pace.checkpoint_every) || evaluates;
        // Ranks that train together read the same figures at the same steps; they have waited for the device anyway.
        let several = run.stage.ranks().size() > 1;
        if logs || saves || probes || several || run.read_at.elapsed() >= READ_EVERY {
            run.read(&figures)?;
        }
        observer.on_step(&run.report());
        let logged = if logs { run.log(observer) } else { Ok(()) };
        run.together(logged)?;
        let stops = any(run.stage.ranks(), observer.stopped())? && !last;
        let beside = Instant::now();
        // What was computed is safe before anything else is tried with it.
        if saves || stops {
            run.read(&figures)?;
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
        if evaluates && !run.evaluate(observer)? {
            return Ok(Outcome::Stopped);
        }
        run.clock.beside += beside.elapsed();
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

/// Since when the speed is measured.
struct Clock {
    start: Instant,
    step: usize,
    /// Time for checkpoints, probes and evaluations, which is not counted.
    beside: Duration,
}

impl Clock {
    fn at(step: usize) -> Self {
        Self { start: Instant::now(), step, beside: Duration::ZERO }
    }

    /// Steps per second up to a step.
    fn speed(&self, step: usize) -> f64 {
        let seconds = self.start.elapsed().saturating_sub(self.beside).as_secs_f64();
        (step - self.step) as f64 / seconds.max(f64::MIN_POSITIVE)
    }
}

/// A run between two steps.
struct Run<'a> {
    stage: &'a mut dyn Stage,
    pace: &'a Pace,
    folder: &'a Path,
    step: usize,
    saved: usize,
    /// The step from which this session goes on.
    resumed: usize,
    /// Seconds of earlier sessions.
    before: f64,
    start: Instant,
    read_at: Instant,
    /// The step whose figures were read last, and these.
    read_step: usize,
    losses: Vec<(&'static str, f64)>,
    clock: Clock,
    watch: Watch,
    /// The last step that `metrics.jsonl` has an evaluation of.
    evaluated: Option<u64>,
    /// TensorBoard's file of this session, from the first line on.
    events: Option<Events>,
}

/// The figure that every evaluation has.
const EVALUATED: &str = "evaluation_seconds";

impl<'a> Run<'a> {
    /// Loads the newest checkpoint, and makes up for a probe that its session did not come to.
    fn resume(stage: &'a mut dyn Stage, pace: &'a Pace, folder: &'a Path) -> Result<Self, Error> {
        let every = stage.evaluate_every();
        let settings = format!("{} {} {pace:?} {every:?}", stage.name(), stage.made_from().text());
        agree(stage.ranks(), settings.as_bytes(), "was started with other settings than rank 0")?;
        let loaded = load_newest(stage, folder);
        let (step, before) = together(stage.ranks(), loaded)?;
        agree(stage.ranks(), &step.to_le_bytes(), "finds another checkpoint than rank 0")?;
        let (mut watch, mut evaluated) = (Watch::default(), None);
        let forgotten = match stage.ranks().rank() {
            // What rang in an earlier session does not ring again.
            0 => metrics::forget_after(folder, stage.name(), step, |line| {
                for (name, value) in &line.figures {
                    watch.see(&line.stage, line.step, name, *value);
                    if name == EVALUATED && line.stage == stage.name() {
                        evaluated = Some(line.step);
                    }
                }
            }),
            _ => Ok(()),
        };
        together(stage.ranks(), forgotten)?;
        let now = Instant::now();
        Ok(Self {
            stage,
            pace,
            folder,
            step,
            saved: step,
            resumed: step,
            before,
            start: now,
            read_at: now,
            read_step: step,
            losses: Vec::new(),
            clock: Clock::at(step),
            watch,
            evaluated,
            events: None,
        })
    }

    /// Whether this is the rank that writes files.
    fn writes(&self) -> bool {
        self.stage.ranks().rank() == 0
    }

    /// What all ranks make of a part of the work that one of them does.
    fn together(&self, result: Result<(), Error>) -> Result<(), Error> {
        together(self.stage.ranks(), result)
    }

    /// Logs the figures of the present step, with the speed and the memory.
    fn log(&mut self, observer: &mut dyn Observer) -> Result<(), Error> {
        const GIB: f64 = (1 << 30) as f64;
        if !self.writes() {
            return Ok(());
        }
        let mut figures = self.losses.clone();
        let samples = self.stage.samples_per_step();
        figures.extend(
            samples.map(|samples| ("samples_per_second", samples as f64 * self.clock.speed(self.step))),
        );
        figures.extend(dmd_kernels::memory::resident().map(|bytes| ("memory_gib", bytes as f64 / GIB)));
        let device = self.stage.device().and_then(dmd_kernels::device::memory);
        figures.extend(device.map(|bytes| ("device_memory_gib", bytes as f64 / GIB)));
        self.clock = Clock::at(self.step);
        self.watch(&figures, observer);
        self.write(&figures)
    }

    /// Adds figures of the present step to `metrics.jsonl` and to TensorBoard's file.
    fn write(&mut self, figures: &[(&'static str, f64)]) -> Result<(), Error> {
        metrics::append(self.folder, (self.stage.name(), self.step), self.seconds(), figures)?;
        let step = self.step;
        self.events()?.map_or(Ok(()), |events| events.figures(step, figures))
    }

    /// TensorBoard's file of this session, where the run has one. Each stage has a folder of its own, since its steps
    /// begin at 1.
    fn events(&mut self) -> Result<Option<&mut Events>, Error> {
        if self.pace.tensorboard && self.events.is_none() {
            let folder = self.folder.join("tensorboard").join(self.stage.name());
            self.events = Some(Events::create(&folder, self.resumed)?);
        }
        Ok(self.events.as_mut())
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
    fn read(&mut self, figures: &Figures) -> Result<(), Error> {
        if self.read_step == self.step {
            return Ok(());
        }
        self.losses = figures.read().map_err(|NotFinite { term, value }| {
            let (checkpoint, saved) = (newest(self.folder, self.stage.name()), self.saved);
            Error::Diverged { step: self.step, term, value, checkpoint, saved }
        })?;
        (self.read_step, self.read_at) = (self.step, Instant::now());
        Ok(())
    }

    /// Tells the observer of logged figures that have left the range of a healthy run.
    fn watch(&mut self, figures: &[(&'static str, f64)], observer: &mut dyn Observer) {
        for (name, value) in figures {
            let fresh = self.watch.see(self.stage.name(), self.step as u64, name, *value);
            fresh.iter().for_each(|alarm| observer.on_alarm(alarm));
        }
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
    fn probe(&mut self, observer: &mut dyn Observer) -> Result<(), Error> {
        if !self.writes() {
            return Ok(());
        }
        let Some(probe) = self.stage.probe(&|| observer.stopped())? else {
            return Ok(()); // asked to stop: the checkpoint is written
        };
        if !probe.figures.is_empty() {
            self.write(&probe.figures)?;
        }
        if probe.pictures.is_empty() {
            return Ok(());
        }
        let (grid, path, step) = (dmd_data::grid(&probe.pictures, 8), self.grid(), self.step);
        dmd_data::save(&grid, &path)?;
        let Some(events) = self.events()? else { return Ok(()) };
        let png = std::fs::read(&path).map_err(|source| dmd_weights::Error::Read { path, source })?;
        events.picture(step, "grid", grid.dimensions(), &png)
    }

    /// Whether the present step is one that is evaluated.
    fn evaluates(&self) -> bool {
        let due = |every: usize| self.step == self.pace.steps || self.step.is_multiple_of(every.max(1));
        self.stage.evaluate_every().is_some_and(due)
    }

    /// Evaluates the present step, unless that was done; whether it was not broken off. The ranks wait for the first.
    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<bool, Error> {
        let done = if self.writes() { self.evaluate_here(observer) } else { Ok(true) };
        let done = together(self.stage.ranks(), done)?;
        Ok(!any(self.stage.ranks(), !done)?)
    }

    fn evaluate_here(&mut self, observer: &mut dyn Observer) -> Result<bool, Error> {
        if self.evaluated == Some(self.step as u64) {
            return Ok(true);
        }
        let start = Instant::now();
        let Some(mut figures) = self.stage.evaluate(&|| observer.stopped())? else {
            return Ok(false);
        };
        observer.on_evaluation(&StepReport { losses: &figures, ..self.report() });
        self.watch(&figures, observer);
        figures.push((EVALUATED, start.elapsed().as_secs_f64()));
        self.write(&figures)?;
        self.evaluated = Some(self.step as u64);
        Ok(true)
    }
}
