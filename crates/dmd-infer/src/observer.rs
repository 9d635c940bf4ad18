use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Tensor;
use image::RgbImage;

/// A stage of drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Prompts to text features.
    Text,
    /// The picture to start from to latents.
    Encoding,
    /// Noise to latents.
    Denoising,
    /// Latents to pictures.
    Decoding,
}

/// Where denoising stands.
#[derive(Debug, Clone)]
pub struct Progress<'a> {
    /// Network calls done.
    pub step: usize,
    /// Network calls for these pictures.
    pub steps: usize,
    /// Which pictures of the request are being drawn: a request of many goes through the networks a few at a time.
    pub pictures: Range<usize>,
    /// The clean latents predicted so far, `[pictures, channels, height, width]`: what
    /// [`Pipeline::decode`](crate::Pipeline::decode) turns into a preview.
    pub x0: &'a Tensor<4>,
}

/// Watches a request being drawn, and may end it.
pub trait Observer {
    /// Called when a stage begins.
    fn on_stage(&mut self, _stage: Stage) {}

    /// Called after each network call of the denoising stage.
    fn on_step(&mut self, _progress: &Progress<'_>) {}

    /// Called with each picture when it is drawn, in order: its place in the request, its seed, its pixels.
    fn on_picture(&mut self, _place: usize, _seed: u64, _picture: &RgbImage) {}

    /// Asked between stages and after each network call; `true` ends the request with
    /// [`Error::Cancelled`](crate::Error::Cancelled).
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody watches.
impl Observer for () {}

/// Ends a request from another thread: a clone of it is given as the request's observer.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that has not been cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends every request that this token observes, at its next step.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Observer for CancelToken {
    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
