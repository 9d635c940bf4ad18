//! The generator of a distillation's checkpoint, as files.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use burn::tensor::Device;
use dmd_data::DataSection;
use dmd_model::with_model;
use dmd_train::Trained;
use dmd_train::config::DistillConfig;
use dmd_weights::Precision;
use tempfile::TempDir;

use crate::commands::distill::open;
use crate::console::say;

/// A checkpoint's generator in a folder of its own, in half precision as a run writes it at its end. The folder goes when
/// this does.
pub(super) struct Exported {
    pub(super) teacher: PathBuf,
    data: DataSection,
    folder: TempDir,
}

impl Exported {
    /// Writes the generator of a run's newest checkpoint, or of one that was kept.
    pub(super) fn new(run: &Path, checkpoint: Option<usize>, device: &Device) -> anyhow::Result<Self> {
        let config = DistillConfig::from_file(&run.join("config.toml"))?;
        let folder = tempfile::Builder::new()
            .prefix("evaluated-")
            .tempdir_in(run)
            .with_context(|| format!("cannot write the checkpoint's generator below {run:?}"))?;
        let exported = Self { teacher: config.teacher.clone(), data: config.data.clone(), folder };
        let step = with_model!(open(&config, device)?, model => {
            let (trained, step) = Trained::of_checkpoint(run, checkpoint, &config, &model, device)?;
            trained.write_generator(&exported.generator(), Precision::Half)?;
            step
        });
        say!("the checkpoint after {step} steps:");
        Ok(exported)
    }

    pub(super) fn generator(&self) -> PathBuf {
        self.folder.path().join("unet_one_step")
    }

    /// The folder of the run's pictures; none for the shapes.
    pub(super) fn data(&self) -> anyhow::Result<Option<PathBuf>> {
        match &self.data {
            DataSection::Shapes {} => Ok(None),
            DataSection::Folder(pictures) => Ok(Some(pictures.path.clone())),
            DataSection::Webdataset(_) | DataSection::Prompts { .. } => {
                bail!("the run's data are not a folder of pictures; name one by --data FOLDER")
            }
        }
    }
}
