//! What a run writes to be watched: figures, alarms, evaluations, TensorBoard's files, the page.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use dmd_core::Noise;
use dmd_train::fingerprint::Fingerprint;
use dmd_train::report::{Alarm, Report, page};
use dmd_train::run::{Observer, Outcome, Pace, Probe, Stage, StepReport, run};
use dmd_train::{Alone, Collective, Error, Figures, Threads};
use image::{Rgb, RgbImage};

use crate::StopAt;

const PACE: Pace =
    Pace { steps: 6, log_every: 1, grid_every: 3, checkpoint_every: 2, keep: 1, tensorboard: true };

/// A stage whose gradient norm follows a script, and whose evaluations are counted.
#[derive(Debug)]
struct Scripted<'a> {
    steps: usize,
    norm: fn(usize) -> f64,
    /// The step that fails, as a stop by a full disk does.
    fails_at: Option<usize>,
    every: Option<usize>,
    /// The step whose evaluation is broken off.
    broken_off_at: Option<usize>,
    stop: &'a Cell<bool>,
    evaluated: RefCell<Vec<usize>>,
    noise: Noise,
    ranks: &'a dyn Collective,
}

impl<'a> Scripted<'a> {
    fn new(stop: &'a Cell<bool>) -> Self {
        Self {
            steps: 0,
            norm: |step| step as f64,
            fails_at: None,
            every: None,
            broken_off_at: None,
            stop,
            evaluated: RefCell::default(),
            noise: Noise::from_seed(0),
            ranks: &Alone,
        }
    }
}

fn broken() -> Error {
    Error::Training("the disk is full".to_owned())
}

impl Stage for Scripted<'_> {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn made_from(&self) -> Fingerprint {
        Fingerprint::new()
    }

    fn step(&mut self) -> Result<Figures, Error> {
        self.steps += 1;
        if self.fails_at == Some(self.steps) {
            return Err(broken());
        }
        let mut figures = Figures::new();
        figures.number("gradient_norm", (self.norm)(self.steps));
        Ok(figures)
    }

    fn save(&self, _folder: &Path) -> Result<(), Error> {
        Ok(())
    }

    fn load(&mut self, _folder: &Path, steps: usize) -> Result<(), Error> {
        self.steps = steps;
        Ok(())
    }

    fn ranks(&self) -> &dyn Collective {
        self.ranks
    }

    fn noise(&mut self) -> &mut Noise {
        &mut self.noise
    }

    fn samples_per_step(&self) -> Option<usize> {
        Some(8)
    }

    fn probe(&self, _stopped: &dyn Fn() -> bool) -> Result<Option<Probe>, Error> {
        let pictures = vec![RgbImage::from_pixel(5, 3, Rgb([self.steps as u8, 0, 0]))];
        Ok(Some(Probe { pictures, figures: vec![("probe_accuracy", 0.5)] }))
    }

    fn evaluate_every(&self) -> Option<usize> {
        self.every
    }

    fn evaluate(&self, stopped: &dyn Fn() -> bool) -> Result<Option<Vec<(&'static str, f64)>>, Error> {
        self.stop.set(self.stop.get() || self.broken_off_at == Some(self.steps));
        if stopped() {
            return Ok(None);
        }
        self.evaluated.borrow_mut().push(self.steps);
        Ok(Some(vec![("accuracy", 1.0 / self.steps as f64)]))
    }
}

/// Stops when it is told to, and keeps what it hears.
struct Listening<'a> {
    stop: &'a Cell<bool>,
    alarms: Vec<Alarm>,
}

impl Observer for Listening<'_> {
    fn on_step(&mut self, _report: &StepReport<'_>) {}

    fn on_alarm(&mut self, alarm: &Alarm) {
        self.alarms.push(alarm.clone());
    }

    fn stopped(&self) -> bool {
        self.stop.get()
    }
}

/// The lines of `metrics.jsonl`.
fn lines(run: &Path) -> Vec<serde_json::Map<String, serde_json::Value>> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// CRC-32C bit by bit, as its polynomial says.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

/// A field of a protobuf message.
#[derive(Debug, Clone, PartialEq)]
enum Field {
    Number(u64),
    Double(f64),
    Bytes(Vec<u8>),
    Single(f32),
}

fn fields(mut message: &[u8]) -> Vec<(u64, Field)> {
    fn varint(message: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (byte, rest) = message.split_first().unwrap();
            *message = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }
    fn take<'a>(message: &mut &'a [u8], count: usize) -> &'a [u8] {
        let (taken, rest) = message.split_at(count);
        *message = rest;
        taken
    }
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut message)),
            1 => Field::Double(f64::from_le_bytes(take(&mut message, 8).try_into().unwrap())),
            2 => {
                let length = varint(&mut message) as usize;
                Field::Bytes(take(&mut message, length).to_vec())
            }
            5 => Field::Single(f32::from_le_bytes(take(&mut message, 4).try_into().unwrap())),
            other => panic!("wire type {other}"),
        };
        fields.push((tag >> 3, field));
    }
    fields
}

fn field(message: &[(u64, Field)], number: u64) -> Option<&Field> {
    message.iter().find(|(found, _)| *found == number).map(|(_, field)| field)
}

/// The events of a file, each checksum compared.
fn events(path: &Path) -> Vec<Vec<(u64, Field)>> {
    let bytes = fs::read(path).unwrap();
    let (mut rest, mut events) = (&bytes[..], Vec::new());
    let masked = |bytes: &[u8]| {
        let crc = crc32c(bytes);
        crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
    };
    while !rest.is_empty() {
        let (length, after) = rest.split_at(8);
        assert_eq!(after[..4], masked(length), "the length's checksum");
        let (message, after) = after[4..].split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        assert_eq!(after[..4], masked(message), "the message's checksum");
        events.push(fields(message));
        rest = &after[4..];
    }
    events
}

/// Figures by name and step.
type Scalars = BTreeMap<(String, u64), f32>;

/// What TensorBoard shows of a folder: it reads the files in order, and a session that begins at a step takes away what
/// was there of that step and of later ones.
fn shown(folder: &Path) -> (Scalars, BTreeMap<u64, Vec<u8>>) {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let (mut figures, mut pictures) = (BTreeMap::new(), BTreeMap::new());
    for file in &files {
        let events = events(file);
        assert_eq!(field(&events[0], 3), Some(&Field::Bytes(b"brain.Event:2".to_vec())));
        for event in &events {
            assert!(matches!(field(event, 1), Some(Field::Double(time)) if *time > 1.7e9), "{event:?}");
            let Some(Field::Number(step)) = field(event, 2) else { panic!("{event:?}") };
            if let Some(Field::Bytes(session)) = field(event, 7) {
                assert_eq!(fields(session), [(1, Field::Number(1))]);
                figures.retain(|(_, at), _| at < step);
                pictures.retain(|at, _| at < step);
            }
            let Some(Field::Bytes(summary)) = field(event, 5) else { continue };
            for (_, value) in fields(summary) {
                let Field::Bytes(value) = value else { panic!("{value:?}") };
                let value = fields(&value);
                let Some(Field::Bytes(tag)) = field(&value, 1) else { panic!("{value:?}") };
                let tag = String::from_utf8(tag.clone()).unwrap();
                match (field(&value, 2), field(&value, 4)) {
                    (Some(Field::Single(figure)), None) => drop(figures.insert((tag, *step), *figure)),
                    (None, Some(Field::Bytes(image))) => {
                        let image = fields(image);
                        let Some(Field::Bytes(png)) = field(&image, 4) else { panic!("{image:?}") };
                        let size = [(1, 7), (2, 9), (3, 3)]; // a grid of one picture of 3 by 5 with gaps of 2
                        for (number, expected) in size {
                            assert_eq!(field(&image, number), Some(&Field::Number(expected)));
                        }
                        assert_eq!(tag, "grid");
                        pictures.insert(*step, png.clone());
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    assert_eq!(files.len(), 3, "a file for each session");
    (figures, pictures)
}

/// Stopped once and broken once, a run is in TensorBoard what it is in `metrics.jsonl` and `grids/`: steps that were made
/// again are there once.
#[test]
fn tensorboard_shows_what_is_logged() {
    let (folder, stop) = (tempfile::tempdir().unwrap(), Cell::new(false));
    assert_eq!(
        run(&mut Scripted::new(&stop), &PACE, folder.path(), &mut StopAt(2, 0)).unwrap(),
        Outcome::Stopped
    );
    let mut stage = Scripted { fails_at: Some(6), norm: |step| -(step as f64), ..Scripted::new(&stop) };
    run(&mut stage, &PACE, folder.path(), &mut StopAt(100, 0)).unwrap_err();
    let mut stage = Scripted { norm: |step| 0.1 * step as f64, ..Scripted::new(&stop) };
    run(&mut stage, &PACE, folder.path(), &mut StopAt(100, 0)).unwrap();
    // A session that finds everything done writes no file.
    run(&mut stage, &PACE, folder.path(), &mut StopAt(100, 0)).unwrap();
    let mut expected = BTreeMap::new();
    for line in lines(folder.path()) {
        let step = line["step"].as_u64().unwrap();
        let figures = line.iter().filter(|(name, _)| !["stage", "step", "seconds"].contains(&name.as_str()));
        for (name, value) in figures {
            expected.insert((name.clone(), step), value.as_f64().unwrap() as f32);
        }
    }
    let (figures, pictures) = shown(&folder.path().join("tensorboard/scripted"));
    assert_eq!(figures, expected);
    let norms: Vec<f32> = (1..=6).map(|step| figures[&("gradient_norm".to_owned(), step)]).collect();
    assert_eq!(norms, [1.0, 2.0, -3.0, -4.0, 0.5, 0.6]);
    assert_eq!(pictures.keys().copied().collect::<Vec<_>>(), [3, 6]);
    for (step, png) in pictures {
        assert!(png == fs::read(folder.path().join(format!("grids/scripted-{step:06}.png"))).unwrap());
    }
    let speed = figures[&("samples_per_second".to_owned(), 6)];
    assert!(speed.is_finite() && speed > 0.0, "{speed}");
}

/// Evaluations come at their steps and after the last one, each once, also where one is broken off, the run ends before
/// one, or everything was done before. Of several ranks the first evaluates.
#[test]
fn evaluations_are_neither_lost_nor_doubled() {
    let folder = tempfile::tempdir().unwrap();
    let session = |change: &dyn Fn(&mut Scripted<'_>)| {
        let stop = Cell::new(false);
        let mut stage = Scripted { every: Some(2), ..Scripted::new(&stop) };
        change(&mut stage);
        let pace = Pace { steps: 5, checkpoint_every: 100, ..PACE };
        let outcome =
            run(&mut stage, &pace, folder.path(), &mut Listening { stop: &stop, alarms: Vec::new() });
        (outcome.ok(), stage.evaluated.into_inner())
    };
    // Without a checkpoint of its own step 2 would be made again.
    assert_eq!(session(&|stage| stage.fails_at = Some(3)), (None, vec![2]));
    assert_eq!(session(&|stage| stage.broken_off_at = Some(4)), (Some(Outcome::Stopped), vec![]));
    assert_eq!(session(&|stage| stage.broken_off_at = Some(4)), (Some(Outcome::Stopped), vec![]));
    assert_eq!(session(&|stage| stage.fails_at = Some(5)), (None, vec![4]));
    assert_eq!(session(&|_| {}), (Some(Outcome::Finished), vec![5]));
    assert_eq!(session(&|_| {}), (Some(Outcome::Finished), vec![]));
    let found: Vec<_> = lines(folder.path())
        .iter()
        .filter(|line| line.contains_key("evaluation_seconds"))
        .map(|line| (line["step"].as_u64().unwrap(), line["accuracy"].as_f64().unwrap()))
        .collect();
    assert_eq!(found, [(2, 0.5), (4, 0.25), (5, 0.2)]);

    let folder = tempfile::tempdir().unwrap();
    let evaluated: Vec<Vec<usize>> = std::thread::scope(|scope| {
        let of = |ranks: Threads| {
            let folder = folder.path();
            scope.spawn(move || {
                let stop = Cell::new(false);
                let mut stage = Scripted { every: Some(4), ranks: &ranks, ..Scripted::new(&stop) };
                run(&mut stage, &PACE, folder, &mut StopAt(100, 0)).unwrap();
                stage.evaluated.into_inner()
            })
        };
        let threads: Vec<_> = Threads::group(2).into_iter().map(of).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(evaluated, [vec![4, 6], vec![]]);
}

/// A norm that grows tenfold is told once, however often the run is resumed, and the page says the same.
#[test]
fn an_alarm_rings_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut told = Vec::new();
    for steps in [33, 40, 50] {
        let stop = Cell::new(false);
        let norm = |step| if step > 30 { 20.0 } else { 1.0 };
        let mut stage = Scripted { norm, ..Scripted::new(&stop) };
        let pace = Pace { steps, grid_every: 100, tensorboard: false, ..PACE };
        let mut observer = Listening { stop: &stop, alarms: Vec::new() };
        run(&mut stage, &pace, folder.path(), &mut observer).unwrap();
        told.push(observer.alarms);
    }
    // The third of five values is the first to move their median.
    let (first, later) = told.split_first().unwrap();
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].step, first[0].value), (33, 20.0));
    assert!(later.iter().all(Vec::is_empty));
    let report = Report::read(folder.path()).unwrap();
    assert_eq!(report.alarms(), [Alarm { last_step: 50, ..first[0].clone() }]);
    let page = page(&[report]).unwrap();
    assert!(page.contains("about to diverge (last at step 50)"));
    assert!(!folder.path().join("tensorboard").exists());
}

/// Broken lines, values that are no numbers, stages in the order in which they ran, and runs side by side.
#[test]
fn a_page_shows_what_can_be_read() {
    let home = tempfile::tempdir().unwrap();
    let report = |name: &str, text: &[u8]| {
        let run = home.path().join(name);
        fs::create_dir_all(&run).unwrap();
        fs::write(run.join("metrics.jsonl"), text).unwrap();
        Report::read(&run)
    };
    let mut text = b"{\"stage\":\"second\",\"step\":1,\"loss\":null,\"seconds\":1.0}\n".to_vec();
    text.extend(b"{\"stage\":\"second\",\"step\":2,\"loss\":NaN}\n\xff\xfe\n[1]\n{\"step\":3}\n\n");
    for step in 1..=3000 {
        let loss = 1e4 / f64::from(step);
        text.extend(
            format!("{{\"stage\":\"first\",\"step\":{step},\"loss\":{loss},\"gap\":-0.5}}\n").bytes(),
        );
    }
    text.extend(b"{\"stage\":\"first\",\"ste");
    let one = report("one", &text).unwrap();
    assert_eq!(one.unreadable(), 4);
    let two = report("<two>", b"{\"stage\":\"first\",\"step\":7,\"loss\":2.5,\"own\":0}\n").unwrap();
    let page = page(&[one, two]).unwrap();
    let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("the page has no {text}"));
    assert!(at("<h2>second</h2>") < at("<h2>first</h2>"));
    assert!(at("cannot be read: 4") < at("<h2>second</h2>"));
    assert!(page.contains("&lt;two&gt;") && !page.contains("<two>"));
    assert_eq!(
        page.matches("<svg").count(),
        3,
        "loss, gap and own of the first stage; the second has no value"
    );
    assert_eq!(page.matches("<b>loss</b>").count(), 1, "both runs are in one plot");
    // Over four decades the ticks are powers of ten.
    for tick in [">step<", ">100<", ">1000<", ">10<", "mean squared error"] {
        at(tick);
    }
    assert!(page.len() < 200_000, "{} bytes: the points are not thinned", page.len());
    for (name, text) in [("empty", &b""[..]), ("broken", b"nothing\n")] {
        assert!(report(name, text).unwrap_err().to_string().contains("nothing was logged yet"));
    }
    assert!(Report::read(&home.path().join("nowhere")).unwrap_err().to_string().contains("metrics.jsonl"));
}
