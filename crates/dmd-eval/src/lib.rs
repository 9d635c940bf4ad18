//! Measures of pictures: Fréchet distance in two feature spaces, precision and recall, LPIPS, CLIP score.

mod clip_score;
mod error;
mod features;
pub mod frechet;
mod inception;
mod lpips;
pub mod manifold;

pub use clip_score::ClipScore;
pub use error::Error;
pub use features::{FeatureSpace, InceptionSpace, RandomConv};
pub use inception::Inception;
pub use lpips::{Backbone, Lpips};
