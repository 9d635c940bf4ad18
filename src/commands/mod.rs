//! The subcommands, one file each.

pub(crate) mod ablate;
pub(crate) mod bench;
pub(crate) mod compare;
pub(crate) mod distill;
pub(crate) mod evaluate;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod teacher;
pub(crate) mod verify;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::Args;
use dmd_infer::Pipeline;

/// Which model, on which device.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// Model folder in diffusers' layout [default: the embedded model]
    #[arg(long)]
    model: Option<PathBuf>,
    /// Device: flex, ndarray, wgpu, vulkan, cuda:0
    #[arg(long, default_value = "flex")]
    device: String,
}

/// The embedded model: `models/shapes` here, or the one of the source tree.
pub(crate) fn embedded_model() -> PathBuf {
    let here = Path::new("models/shapes");
    match here.is_dir() {
        true => here.to_owned(),
        false => Path::new(env!("CARGO_MANIFEST_DIR")).join(here),
    }
}

impl ModelArgs {
    /// The model folder: as given, or the embedded one.
    pub(crate) fn folder(&self) -> PathBuf {
        self.model.clone().unwrap_or_else(embedded_model)
    }

    pub(crate) fn device(&self) -> anyhow::Result<Device> {
        Ok(dmd_core::device::open(&self.device)?)
    }

    pub(crate) fn open(&self) -> anyhow::Result<Pipeline> {
        Ok(Pipeline::from_dir(&self.folder(), &self.device()?)?)
    }
}
