//! Working memory that is used again: fresh pages from the system cost more than what is computed in them.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Buffers that nobody uses at the moment.
static IDLE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());
/// Floats that may lie idle, 128 MiB: what the largest convolution of Stable Diffusion works in.
const KEPT: usize = 1 << 25;

/// Floats of a cache line.
const LINE: usize = 16;

/// A buffer of a length, its values left over from earlier use; returned to the others when dropped. It begins with a cache line:
/// a vector that lies in two lines takes twice as long to read.
#[derive(Debug)]
pub(super) struct Scratch {
    buffer: Vec<f32>,
    start: usize,
    len: usize,
}

impl Scratch {
    pub(super) fn new(len: usize) -> Self {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        let room = len + LINE;
        let fitting = (0..idle.len()).filter(|i| idle[*i].len() >= room).min_by_key(|i| idle[*i].len());
        let found = fitting.map(|i| idle.swap_remove(i));
        drop(idle);
        let buffer = found.unwrap_or_else(|| vec![0.0; room]);
        let start = buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Self { buffer, start, len }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(buffer);
        let total = |idle: &Vec<Vec<f32>>| idle.iter().map(Vec::len).sum::<usize>();
        while total(&idle) > KEPT {
            // The smallest are made again soonest.
            let smallest = (0..idle.len()).min_by_key(|i| idle[*i].len()).unwrap_or(0);
            idle.swap_remove(smallest);
        }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer[self.start..self.start + self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[self.start..self.start + self.len]
    }
}
