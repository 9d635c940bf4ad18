//! Training and distillation: the data, the teacher's two stages, and Distribution Matching
//! Distillation itself, with checkpoints that resume exactly.

pub mod assemble;
mod autoencoder;
pub mod checkpoint;
pub mod config;
pub mod data;
mod diffusion;
mod distillation;
mod distiller;
mod ema;
mod error;
pub mod frechet;
mod grounding;
mod learning_rate;
mod optimizer;
pub mod pairs;
pub mod picture;
pub mod reader;
pub mod report;
pub mod ring;
pub mod run;
pub mod shapes;
pub mod toy;
mod trainee;

pub use autoencoder::AutoencoderStage;
pub use diffusion::{DiffusionStage, LatentParts, Pool, Teacher, TeacherArchitecture};
pub use distillation::{DistillationStage, TeacherParts};
pub use distiller::{Diffusion, Distiller, Draw, GeneratorLoss, Reals, Targets, Terms};
pub use ema::Ema;
pub use error::Error;
pub use grounding::GroundingStage;
pub use learning_rate::LearningRate;
pub use optimizer::{AdamW, AdamWConfig, global_norm};
