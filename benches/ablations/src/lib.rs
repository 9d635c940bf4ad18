//! The papers' ablations in the small: variants of the losses side by side, on data whose right answer is known and on
//! small pictures, each with a teacher trained for it. Evidence for the claims of the documentation; not published.

mod classifier;
mod convolutional;
pub mod data;
pub mod experiment;
mod papers;
pub mod pictures;
pub mod tables;
pub mod toy;
pub mod training;
pub mod variants;

pub use papers::tables;
