//! Text to pictures: the one-step generator and its multi-step teacher behind one request.
//!
//! ```no_run
//! use dmd_infer::{Pipeline, Request};
//!
//! # fn main() -> Result<(), dmd_infer::Error> {
//! let device = dmd_core::device::open("flex").expect("the feature `flex` is enabled");
//! let pipeline = Pipeline::from_dir("models/shapes".as_ref(), &device)?;
//! let drawn = pipeline.generate(&Request::new(["a red circle above a blue square"]))?;
//! drawn.pictures[0].save("picture.png").expect("a writable folder");
//! # Ok(())
//! # }
//! ```

mod error;
mod image;
mod pipeline;
mod request;

pub use error::Error;
pub use image::{encode_png, to_rgb8};
pub use pipeline::{OneStepPipeline, Pipeline, PipelineBuilder};
pub use request::{Drawn, Method, Request, Timings};
