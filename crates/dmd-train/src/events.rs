//! Event files as TensorBoard reads them: records of a length, its checksum, a protobuf message and its checksum.
//!
//! The messages are `Event`, `Summary` and `SessionLog` of TensorFlow's `event.proto` and `summary.proto`; the numbers of
//! their fields are below.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::Error;

/// An event file that is being written. Every start of a run has one of its own.
#[derive(Debug)]
pub(crate) struct Events {
    path: PathBuf,
    file: File,
}

/// How the names of event files begin; the seconds of their start follow.
const PREFIX: &str = "events.out.tfevents.";

impl Events {
    /// A new file in a folder, for a run that goes on after `step` steps: TensorBoard forgets what earlier files hold of
    /// later ones.
    pub(crate) fn create(folder: &Path, step: usize) -> Result<Self, Error> {
        let failed = |path: &Path, source| dmd_weights::Error::Write { path: path.to_owned(), source };
        fs::create_dir_all(folder).map_err(|source| failed(folder, source))?;
        // TensorBoard reads the files in the order of their names.
        let earlier = fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.strip_prefix(PREFIX)?.split('.').next()?.parse::<u64>().ok()
        });
        let next = earlier.max().map_or(0, |seconds| seconds + 1);
        let seconds = next.max(now().as_secs());
        let path = folder.join(format!("{PREFIX}{seconds:010}.dmd.{}.0", std::process::id()));
        let file = File::create_new(&path).map_err(|source| failed(&path, source))?;
        let mut events = Self { path, file };
        events.write(0, |event| event.bytes(3, b"brain.Event:2"))?; // the version of the format
        let mut session = Message::default();
        session.number(1, 1); // START
        events.write(step + 1, |event| event.bytes(7, &session.0))?;
        Ok(events)
    }

    /// Figures of a step.
    pub(crate) fn figures(&mut self, step: usize, figures: &[(&'static str, f64)]) -> Result<(), Error> {
        let mut summary = Message::default();
        for (name, figure) in figures {
            let mut value = Message::default();
            value.bytes(1, name.as_bytes());
            value.single(2, *figure as f32);
            summary.bytes(1, &value.0);
        }
        self.write(step, |event| event.bytes(5, &summary.0))
    }

    /// A picture, encoded as PNG.
    pub(crate) fn picture(
        &mut self,
        step: usize,
        name: &str,
        size: (u32, u32),
        png: &[u8],
    ) -> Result<(), Error> {
        let mut image = Message::default();
        image.number(1, u64::from(size.1));
        image.number(2, u64::from(size.0));
        image.number(3, 3); // RGB
        image.bytes(4, png);
        let mut value = Message::default();
        value.bytes(1, name.as_bytes());
        value.bytes(4, &image.0);
        let mut summary = Message::default();
        summary.bytes(1, &value.0);
        self.write(step, |event| event.bytes(5, &summary.0))
    }

    /// Appends an event, with the present time, in one piece.
    fn write(&mut self, step: usize, fill: impl FnOnce(&mut Message)) -> Result<(), Error> {
        let mut event = Message::default();
        event.double(1, now().as_secs_f64());
        event.number(2, step as u64);
        fill(&mut event);
        let length = (event.0.len() as u64).to_le_bytes();
        let record = [&length[..], &checksum(&length), &event.0, &checksum(&event.0)].concat();
        let written = self.file.write_all(&record);
        Ok(written.map_err(|source| dmd_weights::Error::Write { path: self.path.clone(), source })?)
    }
}

/// The time since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// TFRecord's masked CRC-32C.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// A protobuf message: fields one after the other, each behind its number and its wire type.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn single(&mut self, field: u64, value: f32) {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }
}
