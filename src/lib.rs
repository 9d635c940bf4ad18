//! Distribution Matching Distillation in Rust on [burn](https://burn.dev): one-step text-to-image
//! generation, and the training that makes it possible. It runs on the CPU; the same code can be built for burn's GPU
//! backends, which no GPU has run yet.
//!
//! This crate is a façade over the workspace's libraries; use them one by one where that is enough.
//!
//! | module | crate | holds |
//! | --- | --- | --- |
//! | [`core`] | `dmd-core`, the package `dmd-math` | noise levels, predictions, losses, the trait `Denoiser`, a turn of a distillation |
//! | [`scheduler`] | `dmd-scheduler` | schedules and the teacher's samplers |
//! | [`device`], [`kernels`] | `dmd-kernels` | devices by name, hot operations |
//! | [`unet`] | `dmd-unet` | UNets and autoencoders |
//! | [`clip`] | `dmd-clip` | tokenizer and text encoder |
//! | [`weights`] | `dmd-weights` | model files |
//! | [`data`] | `dmd-data` | captioned pictures: the trait `Dataset` |
//! | [`eval`] | `dmd-eval` | measures of pictures |
//! | [`model`] | `dmd-model` | an opened model: what conditions it, its network, noise and pictures |
//! | [`infer`] | `dmd-infer` | pipelines: prompt to picture |
//! | `hub` | `dmd-hub` | fetching models from the Hugging Face hub (feature `hub`) |
//! | [`train`] | `dmd-train` | trainers of teachers and of generators |

pub use dmd_clip as clip;
pub use dmd_core as core;
pub use dmd_data as data;
pub use dmd_eval as eval;
#[cfg(feature = "hub")]
pub use dmd_hub as hub;
pub use dmd_infer as infer;
pub use dmd_kernels as kernels;
pub use dmd_kernels::device;
pub use dmd_model as model;
pub use dmd_scheduler as scheduler;
pub use dmd_train as train;
pub use dmd_unet as unet;
pub use dmd_weights as weights;
