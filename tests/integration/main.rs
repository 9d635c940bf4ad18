//! The workspace as its users meet it: networks against diffusers and transformers, the pipeline,
//! the program.

mod parity;
mod pipeline;
mod program;
mod support;
