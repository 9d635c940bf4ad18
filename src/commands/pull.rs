use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::FloatDType;
use clap::Args;
use dmd_hub::{Hub, Repository, Snapshot, Variant, diffusers_selection};
use indicatif::{ProgressBar, ProgressStyle};

use super::progress::{Interrupted, interrupted, listen};
use super::{DtypeArgs, OFFLINE};
use crate::console::{bar_target, note, say, status};

/// Fetch a model from the Hugging Face hub into its cache
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// OWNER/NAME or OWNER/NAME@REVISION; :FILE behind it fetches one of its files
    model: String,
    #[command(flatten)]
    dtype: DtypeArgs,
    /// Make no connection: print where the cache has the model, or fail if it does not have it
    #[arg(long)]
    offline: bool,
}

pub(crate) fn pull(args: &PullArgs) -> anyhow::Result<()> {
    listen("stopping; what was fetched is kept, and the next call continues there")?;
    let found = fetch(&Repository::parse(&args.model)?, args.dtype.float(), args.offline)?;
    say!("{}", found.model().display());
    Ok(())
}

/// A model's place on the disk: as it is given, or, where no such file is there and the text names a repository of the
/// hub, in the hub's cache, fetched where that lacks it.
pub(crate) fn place(model: &Path, dtype: FloatDType) -> anyhow::Result<PathBuf> {
    let Some(repository) =
        model.to_str().filter(|_| !is_local(model)).and_then(|text| Repository::parse(text).ok())
    else {
        return Ok(model.to_owned());
    };
    note!("{} is not on this disk; looking on the Hugging Face hub", model.display());
    let found = fetch(&repository, dtype, false).with_context(|| {
        format!("{model:?} is not on this disk, and fetching it from the Hugging Face hub failed")
    })?;
    Ok(found.model())
}

/// Whether a text means a file of this disk: it is there, it is misspelt in a folder that is there, or it ends as weights do.
fn is_local(path: &Path) -> bool {
    let weights = ["safetensors", "ckpt", "pt", "pth", "bin"];
    let ending = path.extension().and_then(|ending| ending.to_str());
    let of_repository = path.to_str().is_some_and(|text| text.contains(':'));
    let folder = path.components().next().is_some_and(|first| Path::new(first.as_os_str()).is_dir());
    path.try_exists().unwrap_or(true)
        || !of_repository && (folder || ending.is_some_and(|ending| weights.contains(&ending)))
}

fn fetch(repository: &Repository, dtype: FloatDType, offline: bool) -> anyhow::Result<Snapshot> {
    let hub = Hub::from_variables(|name| match name {
        OFFLINE if offline => Some("1".to_owned()),
        name => std::env::var(name).ok(),
    })?;
    let variant = match dtype {
        FloatDType::F16 => Variant::Fp16,
        FloatDType::BF16 => Variant::Bf16,
        _ => Variant::Full,
    };
    let bar = ProgressBar::with_draw_target(Some(0), bar_target());
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.set_style(style.context("a progress bar")?);
    let mut said = String::new();
    let found = hub.fetch(
        repository,
        |entries| diffusers_selection(entries, variant),
        |progress| {
            if progress.file != said {
                said = progress.file.to_owned();
                // Where there is no terminal the bar is silent.
                if bar.is_hidden() && !said.is_empty() {
                    status!("fetching {said} ({:.1} MB)", progress.file_total as f64 / 1e6);
                }
                bar.set_message(said.clone());
            }
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            if interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
    );
    bar.finish_and_clear();
    match found {
        Err(dmd_hub::Error::Cancelled) => {
            Err(Interrupted("stopped; the next call continues there".to_owned()).into())
        }
        Err(error) => Err(error.into()),
        Ok(found) => {
            for part in &found.selection.other_variant {
                note!("{part} is not published in the requested precision; another one was fetched");
            }
            Ok(found)
        }
    }
}
