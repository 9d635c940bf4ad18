//! Fetches a diffusion model's files from the Hugging Face hub, and keeps them in the cache that Python's
//! `huggingface_hub` uses. Files that one of the two has fetched can be opened by the other without a network.
//!
//! [`Hub::fetch`] lists a [`Repository`] at one commit, calls a function that selects files, and fetches the selected
//! files that the cache lacks. [`diffusers_selection`] is such a function for diffusion models. It selects the
//! configurations and one set of weights for each network, with a preference for safetensors over pickles, and nothing
//! else.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//!
//! use dmd_hub::{Hub, Repository, Variant, diffusers_selection};
//!
//! # fn main() -> Result<(), dmd_hub::Error> {
//! let hub = Hub::from_env()?;
//! let repository = Repository::parse("stabilityai/sdxl-turbo")?;
//! let snapshot = hub.fetch(
//!     &repository,
//!     |entries| diffusers_selection(entries, Variant::Fp16),
//!     |progress| {
//!         eprintln!("{}: {} of {} bytes", progress.file, progress.done, progress.total);
//!         ControlFlow::Continue(())
//!     },
//! )?;
//! println!("{} at commit {}", snapshot.model().display(), snapshot.commit);
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! - A file gets its name in the cache only when its length and its hash are those that the hub lists: SHA-256 for
//!   large files, git's hash for small ones. Until then its name ends in `.incomplete`, and a later call resumes where
//!   it stopped.
//! - All files of a call are of one commit. A branch or a tag is looked up once per call, with one request. A
//!   repository with a commit as its revision needs no request once its files are in the cache.
//! - With `HF_HUB_OFFLINE=1` no connection is made. Without a network, files that are complete in the cache can be
//!   opened.
//! - The token is sent only to the hub's own address, never along a redirect to another address.
//!
//! # Settings
//!
//! The variables are those of `huggingface_hub`; [`Hub::from_env`] lists them. Proxies are taken from `ALL_PROXY`,
//! `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, as [`ureq`] reads them.

mod cache;
mod download;
mod error;
mod hub;
mod listing;
mod pattern;
mod progress;
mod repository;
mod selection;
mod settings;
mod wire;

pub use error::Error;
pub use hub::{Hub, Snapshot};
pub use listing::{Entry, Listing};
pub use progress::Progress;
pub use repository::Repository;
pub use selection::{Selection, Variant, diffusers_selection};

/// Compiles and runs the README's example as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
