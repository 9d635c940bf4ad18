//! The one door for model files: safetensors in the layout of a diffusers folder, whole, sharded or
//! in half precision, and PyTorch state dicts behind the feature `pytorch`.
//!
//! [`read`] opens a file, [`load`] fills a burn module from it, [`save`] writes one back under the
//! same names, so that diffusers opens what this project trained and the other way round. A load
//! is all or nothing: every missing, unused and misshapen tensor is reported at once
//! ([`Mismatch`]). Files are written beside their final name and renamed ([`write_atomic`]).

mod atomic;
mod disk;
mod error;
mod file;
mod folder;
mod json;
mod lock;
mod mean;
mod module;
mod names;
mod shards;
mod whole_folder;

pub use atomic::write_atomic;
#[doc(hidden)]
pub use disk::{Fault, with_fault};
pub use error::{Error, Mismatch, Misshapen};
pub use file::{Entry, NamedTensor, Precision, TensorFile, read, write};
pub use folder::{ModelIndex, weight_file};
pub use json::{parse_json, read_config, read_json, write_json};
pub use lock::FolderLock;
pub use mean::mean;
pub use module::{cast, check, load, load_for_training, save, tensors};
pub use names::KeyMap;
pub use safetensors::Dtype;
pub use whole_folder::WholeFolder;
