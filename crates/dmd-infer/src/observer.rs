use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Tensor;
use image::RgbImage;

/// A stage of drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Converts prompts to text features.
    Text,
    /// Encodes the picture to start from to latents.
    Encoding,
    /// Denoises noise to latents.
    Denoising,
    /// Decodes latents to pictures.
    Decoding,
}

/// The progress of denoising.
#[derive(Debug, Clone)]
pub struct Progress<'a> {
    /// Number of finished network calls.
    pub step: usize,
    /// Total number of network calls for these pictures.
    pub steps: usize,
    /// Which pictures of the request are being drawn. A request with many pictures is drawn a few pictures at a time.
    pub pictures: Range<usize>,
    /// The clean latents that are predicted at this step, `[pictures, channels, height, width]`.
    /// [`Pipeline::decode`](crate::Pipeline::decode) makes a preview from them.
    pub x0: &'a Tensor<4>,
}

/// Observes the drawing of a request, and may end it.
pub trait Observer {
    /// Called when a stage begins.
    fn on_stage(&mut self, _stage: Stage) {}

    /// Called after each network call of the denoising stage.
    fn on_step(&mut self, _progress: &Progress<'_>) {}

    /// Called with each finished picture, in order: its index in the request, its seed, its pixels.
    fn on_picture(&mut self, _place: usize, _seed: u64, _picture: &RgbImage) {}

    /// Called between stages and after each network call. The result `true` ends the request with
    /// [`Error::Cancelled`](crate::Error::Cancelled).
    fn cancelled(&self) -> bool {
        false
    }
}

/// An observer that does nothing.
impl Observer for () {}

/// Ends a request from another thread. Give a clone of the token as the request's observer.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that has not been cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends every request that has this token as its observer, at the request's next step.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Observer for CancelToken {
    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
