use std::path::{Path, PathBuf};

use clap::Args;
use dmd_clip::Tokenizer;
use dmd_core::Noise;
use dmd_train::config::{self, PixelTeacherConfig, TeacherConfig};
use dmd_train::run::{Outcome, run};
use dmd_train::{
    AutoencoderStage, DiffusionStage, GroundingStage, LatentParts, PixelTeacherStage, Pool,
    TeacherArchitecture, assemble,
};
use dmd_unet::Autoencoder;
use dmd_weights::Precision;

use super::open_dataset as open;
use super::progress::Progress;
use crate::console::say;

/// Train a teacher: autoencoder, text encoder and UNet, or a class-conditional model on pixels
#[derive(Debug, Args)]
pub(crate) struct TeacherArgs {
    /// Configuration file (TOML), e.g. configs/shapes-teacher.toml
    config: PathBuf,
    /// Device to train on
    #[arg(long, default_value = "flex")]
    device: String,
}

/// Pictures over which the latents' variance is measured.
const SCALING_PICTURES: usize = 512;

/// A class-conditional EDM model on pixels.
fn pixel_teacher(args: &TeacherArgs) -> anyhow::Result<()> {
    let config = PixelTeacherConfig::from_file(&args.config)?;
    let device = dmd_kernels::device::open(&args.device)?;
    let dataset = open(&config.data)?;
    config::save(&config, &config.output)?;
    let mut progress = Progress::new()?;
    let (pace, output) = (config.training.pace, config.output.clone());
    let mut stage = PixelTeacherStage::new(config, dataset, &device)?;
    if run(&mut stage, &pace, &output, &mut progress)? == Outcome::Stopped {
        return stopped(&output);
    }
    let model = output.join("model");
    stage.domain().write_teacher(&model, Precision::Half)?;
    say!("wrote {}", model.display());
    Ok(())
}

pub(crate) fn teacher(args: &TeacherArgs) -> anyhow::Result<()> {
    if PixelTeacherConfig::is_meant(&args.config)? {
        return pixel_teacher(args);
    }
    let config = TeacherConfig::from_file(&args.config)?;
    let device = dmd_kernels::device::open(&args.device)?;
    let dataset = open(&config.data)?;
    config::save(&config, &config.output)?;
    let mut progress = Progress::new()?;
    let model = config.output.join("model");
    let vocabulary = assemble::vocabulary(dataset.as_ref());
    assemble::write_tokenizer(&model, &vocabulary)?;

    let section = config.autoencoder.clone();
    let mut stage = AutoencoderStage::new(section.clone(), dataset.clone(), config.seed, &device)?;
    if run(&mut stage, &section.pace, &config.output, &mut progress)? == Outcome::Stopped {
        return stopped(&config.output);
    }
    if !model.join("vae").join("config.json").is_file() {
        let (network, architecture) = stage.finish(SCALING_PICTURES)?;
        assemble::write_autoencoder(&model, &network, &architecture, Precision::Half)?;
    }
    // The second stage sees the autoencoder as it is shipped, rounded to half precision.
    let (autoencoder, architecture) = Autoencoder::from_dir(&model.join("vae"), &device)?;

    let architecture = TeacherArchitecture::new(&config, &vocabulary, &architecture);
    let tokens = architecture.text.max_position_embeddings;
    let tokenizer = Tokenizer::from_dir(&model.join("tokenizer"), tokens)?;
    let section = &config.diffusion;
    say!("encoding {} captioned pictures", section.pool);
    let mut noise = Noise::stream(config.seed, "pool");
    let pool = Pool::draw(section.pool, dataset.as_ref(), &autoencoder, &tokenizer, &mut noise, &device)?;

    let section = config.grounding.clone();
    let empty = tokenizer.encode("")?;
    let mut stage = GroundingStage::new(section, &architecture.text, pool, empty, config.seed, &device)?;
    if run(&mut stage, &config.grounding.pace, &config.output, &mut progress)? == Outcome::Stopped {
        return stopped(&config.output);
    }
    let (text, pool) = stage.into_parts();

    let parts = LatentParts { autoencoder, dataset, tokenizer, pool };
    let mut stage = DiffusionStage::new(&config, &architecture, text, parts, &device)?;
    if run(&mut stage, &config.diffusion.pace, &config.output, &mut progress)? == Outcome::Stopped {
        return stopped(&config.output);
    }
    assemble::write_teacher(&model, stage.teacher(), &architecture, Precision::Half)?;
    say!("wrote {}", model.display());
    Ok(())
}

fn stopped(output: &Path) -> anyhow::Result<()> {
    say!("stopped; the same command resumes from the checkpoint in {}", output.display());
    Ok(())
}
