//! The workspace as its users meet it: networks against diffusers and transformers, the pipeline,
//! the program.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod book;
#[cfg(feature = "serve")]
mod browser;
mod doors;
mod edm;
mod embedded;
mod embeddings;
mod golden_measures;
mod golden_training;
mod lcm;
mod lora_training;
mod opening;
mod parity;
mod pipeline;
mod program;
mod runs;
mod sdxl;
mod shapes;
mod support;
mod trainer;
mod verify;
