//! Measures of pictures: Fréchet and kernel distance in two feature spaces, precision and recall, retrieval, LPIPS, CLIP
//! score; and comparisons of two sets with standard errors.

mod clip_score;
mod error;
mod features;
pub mod frechet;
mod inception;
pub mod kernel;
mod lpips;
pub mod manifold;
pub mod paired;
pub mod retrieval;

pub use clip_score::ClipScore;
pub use error::Error;
pub use features::{FeatureSpace, InceptionSpace, RandomConv};
pub use inception::Inception;
pub use lpips::{Backbone, Lpips};

/// The example of the package's page is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
