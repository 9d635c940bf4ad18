//! A pipeline behind HTTP: a page that draws while one types, an API of its own, and OpenAI's for images.
//!
//! ```no_run
//! use dmd_infer::{Device, Pipeline};
//! use dmd_serve::{Server, Settings};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pipeline = Pipeline::from_dir("models/shapes".as_ref(), &Device::flex())?;
//! let server = Server::bind("127.0.0.1:7860".parse()?, pipeline, Settings::default())?;
//! println!("http://{}", server.address());
//! server.run()?;
//! # Ok(())
//! # }
//! ```
//!
//! Requests wait in a queue with a bound. Those of one kind (size, steps, guidance, strengths of LoRAs) are drawn in one batch; a picture depends on
//! its own prompt and seed alone, but for rounding. A client that leaves gives up its place. No path from a request opens a file.

mod answer;
mod api;
mod guard;
mod loras;
mod metrics;
mod openai;
mod page;
mod queue;
mod server;
mod settings;
mod wanted;

pub use server::{Server, Stop};
pub use settings::Settings;

/// The example of the package's page is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
