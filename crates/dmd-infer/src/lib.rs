//! Draws pictures from prompts. One type of request serves both a distilled generator and its multi-step teacher.
//!
//! ```no_run
//! use dmd_infer::{Device, Pipeline, Request};
//!
//! # fn main() -> Result<(), dmd_infer::Error> {
//! let pipeline = Pipeline::from_dir("models/shapes".as_ref(), &Device::flex())?; // or Pipeline::embedded
//! let drawn = pipeline.generate(&Request::new(["a red circle above a blue square"]))?;
//! drawn.pictures[0].save("picture.png").expect("a writable folder");
//! # Ok(())
//! # }
//! ```

/// The path of the model of [`Pipeline::embedded`], for all functions that take a model folder. The folder is in the
/// program's memory.
#[cfg(feature = "embedded")]
pub fn embedded() -> std::path::PathBuf {
    dmd_shapes::MODEL.path()
}

mod builder;
mod checks;
mod clock;
mod describe;
mod drawing;
mod error;
mod observer;
mod pipeline;
mod png;
mod request;
pub mod self_check;
pub mod verify;

pub use burn::tensor::{Device, FloatDType};
pub use dmd_model::{LoraOption, SizeConditions, TextFeatures};
pub use dmd_scheduler::{Sampler, Steps};
pub use dmd_weights::MemoryFolder;

pub use builder::PipelineBuilder;
pub use error::Error;
pub use observer::{CancelToken, Observer, Progress, Stage};
pub use pipeline::Pipeline;
pub use png::encode_png;
pub use request::{Drawn, Embeddings, Method, NoiseSource, Request, TeacherSettings, Timings};

/// Compiles and runs the README's example as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
