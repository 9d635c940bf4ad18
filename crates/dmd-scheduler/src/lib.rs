//! Noise schedules and the samplers of the teacher.
//!
//! A schedule ([`DiscreteSchedule`] for Stable Diffusion, [`KarrasSchedule`] for EDM) turns time
//! into `(alpha, sigma)`; a sampler walks a [`Denoiser`](dmd_core::Denoiser) from noise to data. The
//! samplers of a `scheduler_config.json` ([`Sampler`]) are all one type: [`SchedulerConfig::walk`]
//! plans, [`Walk::run`] walks. [`heun`] is EDM's own. Tables are computed in f64 on the host.

mod beta;
mod config;
mod discrete;
mod dpm;
mod edm;
mod error;
mod grid;
pub mod heun;
mod karras;
mod method;
mod options;
mod plan;
mod pndm;
mod sampler;
mod solver;
mod times;
mod unipc;
mod walk;

pub use beta::BetaSchedule;
pub use config::SchedulerConfig;
pub use discrete::DiscreteSchedule;
pub use dmd_core::{TimeDistribution, TimeSampler};
pub use edm::EdmConfig;
pub use error::Error;
pub use karras::KarrasSchedule;
pub use sampler::Sampler;
pub use times::Spacing;
pub use walk::{FreshNoise, Steps, Walk};

/// The example of the package's page is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
