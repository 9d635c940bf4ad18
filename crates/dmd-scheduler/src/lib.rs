//! Noise schedules and the samplers of the teacher.
//!
//! A schedule ([`DiscreteSchedule`] for Stable Diffusion, [`KarrasSchedule`] for EDM) turns time
//! into `(alpha, sigma)`; a sampler walks a [`Denoiser`](dmd_core::Denoiser) from noise to data
//! ([`ddim`], [`pndm`], [`heun`]). Tables are computed in f64 on the host.

mod beta;
mod config;
pub mod ddim;
mod discrete;
mod error;
pub mod heun;
mod karras;
pub mod pndm;
mod times;

pub use beta::BetaSchedule;
pub use config::{Sampler, SchedulerConfig};
pub use discrete::DiscreteSchedule;
pub use error::Error;
pub use karras::KarrasSchedule;
pub use times::{Spacing, TimeSampler};
