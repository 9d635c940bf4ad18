//! Reads and writes all model files: safetensors in the layout of a diffusers folder, as one file or sharded, in single
//! or half precision, and PyTorch state dicts behind the feature `pytorch`.
//!
//! [`read`] opens a file as [`Tensors`], a lazy view that can be narrowed, renamed and merged with a [`Lora`]. [`load`]
//! fills a burn module from such a view by name, and [`save`] writes a module under the same names. diffusers can thus
//! open what this project trained, and this project can open diffusers' models. A load succeeds completely or not at
//! all: one report lists every missing, unused and misshapen tensor ([`Mismatch`]). A file is written beside its final
//! name and then renamed ([`write_atomic`]). A folder is replaced as a whole ([`WholeFolder`]), by one process at a
//! time ([`FolderLock`]).

mod atomic;
mod convert;
mod disk;
mod embedded;
mod embedding;
mod entry;
mod error;
mod folder;
mod json;
mod ldm;
mod load;
mod lock;
mod lora;
mod mapped;
mod mean;
mod mismatch;
mod names;
mod open;
mod parameters;
mod plan;
mod shards;
mod tensors;
mod whole_folder;
mod write;

pub use atomic::write_atomic;
#[doc(hidden)]
pub use disk::{Fault, with_fault};
pub use embedded::{EmbeddedFolder, MemoryFolder, is_dir, is_file, read_to_string};
pub use embedding::EmbeddingFile;
pub use entry::Entry;
pub use error::Error;
pub use folder::{ModelIndex, weight_file};
pub use json::{parse_json, read_config, read_json, write_json};
pub use ldm::{Checkpoint, Family, Part, Spelling};
pub use load::{load, load_for_training, load_in, load_some_for_training, reload};
pub use lock::FolderLock;
pub use lora::{Lora, LoraFile, LoraPart, LoraReport, LoraSpelling, Update, is_lora, load_lora, save_lora};
pub use mean::mean;
pub use mismatch::{Mismatch, Misshapen};
pub use names::KeyMap;
pub use open::{read, read_metadata};
pub use parameters::{cast, cast_frozen, count, save, save_some, shapes, tensors, trained};
pub use plan::check;
pub use safetensors::Dtype;
pub use tensors::{NamedTensor, Tensors};
pub use whole_folder::WholeFolder;
pub use write::{Precision, write, write_with_metadata};

/// Compiles and runs the README's example as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
