//! Training and distillation: the data, the teacher's two stages, and Distribution Matching
//! Distillation itself, with checkpoints that resume exactly.

mod alarms;
mod alignment;
mod autoencoder;
pub mod cache;
mod captions;
pub mod checkpoint;
mod chunks;
pub mod config;
mod diffusion;
mod distance;
mod distillation;
mod ema;
mod error;
mod evaluation;
mod events;
mod figures;
pub mod fingerprint;
mod gradients;
mod grounding;
mod learning_rate;
mod lora;
mod metrics;
mod optimizer;
mod pace;
mod pair_file;
pub mod pairs;
mod parallel;
mod parameter;
mod pixel_teacher;
pub mod plan;
mod pool;
mod ranks;
mod reals;
pub mod report;
mod row_file;
pub mod run;
mod trained;
mod trainer;
mod training;

pub use alignment::align;
pub use autoencoder::AutoencoderRecipe;
pub use diffusion::{DiffusionRecipe, LatentParts, Teacher, TeacherArchitecture};
pub use distance::Perceptual;
pub use distillation::{DistillationParts, DistillationStage};
use ema::Ema;
pub use error::Error;
pub use figures::{Figures, NotFinite};
pub use gradients::Gradients;
pub use grounding::GroundingRecipe;
pub use learning_rate::LearningRate;
pub use lora::LoraSection;
pub use optimizer::{AdamW, AdamWConfig};
pub use parallel::both;
pub use pixel_teacher::PixelRecipe;
pub use pool::Pool;
pub use ranks::{Alone, Collective, Threads, agree, any, balanced_sum, together};
pub use trained::Trained;
pub use trainer::{Adversarial, Batch, LazyBatch, Regression, Trainer, TrainerConfig, Turn};
pub use training::{Recipe, Training, TrainingConfig};

/// The example of the package's page is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
