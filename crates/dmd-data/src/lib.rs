//! Captioned pictures to train on and to measure with: a folder or tar files of your own, a list of prompts, or
//! the procedural shapes. One trait, [`Dataset`], stands for all of them; a data set of your own is one `impl` of it.

mod dataset;
mod epochs;
mod error;
mod folder;
mod metadata;
mod mirrored;
mod picture;
mod prompts;
mod section;
pub mod shapes;
mod tar_index;
mod web_dataset;

pub use dataset::{Dataset, Entry, Example, check_captions};
pub use epochs::Epochs;
pub use error::{Error, Problem};
pub use folder::ImageFolder;
pub use mirrored::Mirrored;
pub use picture::{Background, Opened, grid, open_picture, save};
pub use prompts::Prompts;
pub use section::{DataSection, Pictures};
pub use shapes::Shapes;
pub use web_dataset::WebDataset;

/// The example of the package's page is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
