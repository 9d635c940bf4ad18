use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use clap::Args;
use dmd_clip::Vocabulary;
use dmd_core::Noise;
use dmd_data::{Dataset, check_captions};
use dmd_model::{
    ModelFolder, Part, read_autoencoder, read_tokenizer, write_autoencoder, write_teacher, write_tokenizer,
};
use dmd_train::checkpoint::{check_resumable, has_checkpoint};
use dmd_train::config::{self, PixelTeacherConfig, TeacherConfig};
use dmd_train::fingerprint::{self, Made};
use dmd_train::run::{Outcome, run};
use dmd_train::{
    AutoencoderRecipe, DiffusionRecipe, GroundingRecipe, LatentParts, PixelRecipe, Pool, TeacherArchitecture,
    assemble,
};
use dmd_weights::{FolderLock, Precision, WholeFolder};

use super::open_dataset;
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
    let _lock = FolderLock::take(&config.output)?;
    let dataset = open_dataset(&config.data)?;
    let made_from = config.made_from(dataset.as_ref())?;
    check_resumable(&config.output, "pixels", &made_from)?;
    config::save(&config, &config.output)?;
    let mut progress = Progress::new()?;
    let (pace, output) = (config.training.pace, config.output.clone());
    let mut stage = PixelRecipe::start(config, dataset, made_from, &device)?;
    if run(&mut stage, &pace, &output, &mut progress)? == Outcome::Stopped {
        return stopped(&output);
    }
    let model = output.join("model");
    stage.model()?.write_teacher(&ModelFolder::new(&model), Precision::Half)?;
    say!("wrote {}", model.display());
    Ok(())
}

pub(crate) fn teacher(args: &TeacherArgs) -> anyhow::Result<()> {
    if PixelTeacherConfig::is_meant(&args.config)? {
        return pixel_teacher(args);
    }
    let config = TeacherConfig::from_file(&args.config)?;
    let device = dmd_kernels::device::open(&args.device)?;
    let _lock = FolderLock::take(&config.output)?;
    let dataset = open_dataset(&config.data)?;
    let model = ModelFolder::new(config.output.join("model"));
    let latents = LatentTeacher { config: &config, dataset: &dataset, model: &model, device: &device };
    latents.check_resumable()?;
    config::save(&config, &config.output)?;
    let vocabulary = assemble::vocabulary(dataset.as_ref());
    write_tokenizer(&model, &vocabulary)?;
    let mut progress = Progress::new()?;
    if latents.autoencoder(&mut progress)? == Outcome::Stopped
        || latents.text_and_unet(&vocabulary, &mut progress)? == Outcome::Stopped
    {
        return stopped(&config.output);
    }
    say!("wrote {}", model.path().display());
    Ok(())
}

/// The stages of a text-conditional teacher on latents.
struct LatentTeacher<'a> {
    config: &'a TeacherConfig,
    dataset: &'a Arc<dyn Dataset>,
    model: &'a ModelFolder,
    device: &'a Device,
}

impl LatentTeacher<'_> {
    /// The hash of the autoencoder's files.
    fn vae(&self) -> anyhow::Result<String> {
        Ok(fingerprint::of_files(&[self.model.part(Part::Autoencoder)])?)
    }

    /// Checks every checkpoint against the configuration, before anything is written.
    fn check_resumable(&self) -> anyhow::Result<()> {
        let (output, vae) = (&self.config.output, self.vae()?);
        check_resumable(output, "autoencoder", &self.config.autoencoder_from(self.dataset.as_ref())?)?;
        if has_checkpoint(output, "grounding") && self.finished_autoencoder()? {
            check_resumable(output, "grounding", &self.config.grounding_from(self.dataset.as_ref(), &vae)?)?;
            check_resumable(output, "diffusion", &self.config.diffusion_from(self.dataset.as_ref(), &vae)?)?;
        }
        Ok(())
    }

    /// What records of which checkpoint the autoencoder's folder was made.
    fn record(&self) -> anyhow::Result<Made> {
        let made_from = self.config.autoencoder_from(self.dataset.as_ref())?.with("vae", self.vae()?)?;
        Ok(Made::new(self.config.output.join("vae.json"), made_from))
    }

    /// Whether the autoencoder's folder is whole and of this configuration.
    fn finished_autoencoder(&self) -> anyhow::Result<bool> {
        Ok(self.record()?.stands()?)
    }

    /// Trains the autoencoder, unless later stages were trained on its latents: then it stays as it is.
    fn autoencoder(&self, progress: &mut Progress) -> anyhow::Result<Outcome> {
        if has_checkpoint(&self.config.output, "grounding") && self.finished_autoencoder()? {
            return Ok(Outcome::Finished);
        }
        let section = self.config.autoencoder.clone();
        let pace = section.pace;
        let made_from = self.config.autoencoder_from(self.dataset.as_ref())?;
        let mut stage = AutoencoderRecipe::start(
            section,
            self.dataset.clone(),
            self.config.seed,
            made_from,
            self.device,
        )?;
        if run(&mut stage, &pace, &self.config.output, progress)? == Outcome::Stopped {
            return Ok(Outcome::Stopped);
        }
        let (network, architecture) = stage.finish(SCALING_PICTURES)?;
        WholeFolder::new(self.model.part(Part::Autoencoder))
            .replace(|fresh| write_autoencoder(fresh, &network, &architecture, Precision::Half))?;
        self.record()?.write()?;
        Ok(Outcome::Finished)
    }

    /// Trains the text encoder, then both it and the UNet.
    fn text_and_unet(&self, vocabulary: &Vocabulary, progress: &mut Progress) -> anyhow::Result<Outcome> {
        let (config, device) = (self.config, self.device);
        // They see the autoencoder as it is shipped, rounded to half precision.
        let (autoencoder, architecture) = read_autoencoder(self.model, device)?;
        let vae = self.vae()?;
        let architecture = TeacherArchitecture::new(config, vocabulary, &architecture);
        let tokenizer = read_tokenizer(self.model, architecture.text.max_position_embeddings)?;
        check_captions(self.dataset.as_ref(), |caption| {
            tokenizer.encode(caption).map(drop).map_err(|error| error.to_string())
        })?;
        say!("encoding {} captioned pictures", config.diffusion.pool);
        let mut noise = Noise::stream(config.seed, "pool");
        let pool = Pool::draw(
            config.diffusion.pool,
            self.dataset.as_ref(),
            &autoencoder,
            &tokenizer,
            &mut noise,
            device,
        )?;

        let begun = (config.seed, config.grounding_from(self.dataset.as_ref(), &vae)?);
        let mut stage = GroundingRecipe::start(&config.grounding, &architecture.text, pool, begun, device)?;
        if run(&mut stage, &config.grounding.pace, &config.output, progress)? == Outcome::Stopped {
            return Ok(Outcome::Stopped);
        }
        let (text, pool) = stage.finish();

        let made_from = config.diffusion_from(self.dataset.as_ref(), &vae)?;
        let parts = LatentParts { autoencoder, dataset: self.dataset.clone(), tokenizer, pool, made_from };
        let mut stage = DiffusionRecipe::start(config, &architecture, text, parts, device)?;
        if run(&mut stage, &config.diffusion.pace, &config.output, progress)? == Outcome::Stopped {
            return Ok(Outcome::Stopped);
        }
        let (teacher, folder) = (stage.average(), self.model);
        let (text, unet) = (&teacher.text, &teacher.denoiser.network);
        let parts = ((text, &architecture.text), (unet, &architecture.unet));
        write_teacher(folder, parts.0, parts.1, Precision::Half)?;
        Ok(Outcome::Finished)
    }
}

fn stopped(output: &Path) -> anyhow::Result<()> {
    say!("stopped; the same command resumes from the checkpoint in {}", output.display());
    Ok(())
}
