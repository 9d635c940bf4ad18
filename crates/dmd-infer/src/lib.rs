//! Text to pictures: the one-step generator and its multi-step teacher behind one request.
//!
//! ```no_run
//! use dmd_infer::{Pipeline, Request};
//!
//! # fn main() -> Result<(), dmd_infer::Error> {
//! let device = dmd_infer::device::open("flex").expect("the feature `flex` is enabled");
//! let pipeline = Pipeline::from_dir("models/shapes".as_ref(), &device)?;
//! let drawn = pipeline.generate(&Request::new(["a red circle above a blue square"]))?;
//! drawn.pictures[0].save("picture.png").expect("a writable folder");
//! # Ok(())
//! # }
//! ```

mod builder;
mod checks;
mod class_pipeline;
mod error;
mod image;
mod observer;
mod pictures;
mod pipeline;
mod request;
pub mod self_check;
pub mod verify;

/// A device that tensors lie on, burn's.
pub use burn::tensor::Device;
pub use dmd_kernels::device;

pub use builder::PipelineBuilder;
pub use class_pipeline::ClassPipeline;
pub use error::Error;
pub use image::{encode_png, encode_png_with, to_rgb8};
pub use observer::{CancelToken, Observer, Progress, Stage};
pub use pictures::from_rgb8;
pub use pipeline::{OneStepPipeline, Pipeline};
pub use request::{Drawn, Embeddings, Method, NoiseSource, Request, Start, Timings};
