//! Training and distillation: the data, the teacher's two stages, and Distribution Matching
//! Distillation itself, with checkpoints that resume exactly.

pub mod assemble;
mod autoencoder;
pub mod checkpoint;
pub mod config;
mod diffusion;
mod distance;
mod distillation;
pub mod domain;
mod ema;
mod error;
mod grounding;
mod learning_rate;
mod optimizer;
pub mod pairs;
mod parallel;
mod pixel_teacher;
pub mod report;
pub mod run;
mod trainee;

pub use autoencoder::AutoencoderStage;
pub use diffusion::{DiffusionStage, LatentParts, Pool, Teacher, TeacherArchitecture};
pub use distance::Perceptual;
pub use distillation::DistillationStage;
pub use ema::Ema;
pub use error::Error;
pub use grounding::GroundingStage;
pub use learning_rate::LearningRate;
pub use optimizer::{AdamW, AdamWConfig, global_norm};
pub use parallel::{both, side_by_side};
pub use pixel_teacher::PixelTeacherStage;
