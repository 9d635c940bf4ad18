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
use dmd_train::run::{Observer, Outcome, run};
use dmd_train::{
    AutoencoderRecipe, DiffusionRecipe, GroundingRecipe, LatentParts, PixelRecipe, Pool, TeacherArchitecture,
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
    // Every word of the captions is one token.
    let vocabulary = Vocabulary::for_words(dataset.vocabulary().iter().map(String::as_str));
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
    fn autoencoder(&self, progress: &mut dyn Observer) -> anyhow::Result<Outcome> {
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
        )?
        .with_optimizer(self.config.optimizer.into());
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
        let mut stage = GroundingRecipe::start(&config.grounding, &architecture.text, pool, begun, device)?
            .with_optimizer(config.optimizer.into());
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;

    use dmd_data::{ImageFolder, save};
    use dmd_train::run::StepReport;
    use dmd_weights::{Fault, with_fault};
    use image::{Rgb, RgbImage};

    use super::*;

    const CONFIG: &str = r#"
        seed = 3
        output = "run"
        data = { kind = "folder", path = "pictures", size = 8 }
        text = { width = 8, layers = 1, heads = 2 }
        unet = { block_out_channels = [8, 8], layers_per_block = 1, heads = 2, norm_num_groups = 4 }
        autoencoder = { block_out_channels = [4, 4], layers_per_block = 1, latent_channels = 2, norm_num_groups = 2, kl_weight = 1e-4, latent_noise = 0.1, preview_weight = 1.0, batch = 2, learning_rate = 1e-3, warmup_steps = 1, ema_decay = 0.5, pace = { steps = 1 } }
        grounding = { batch = 4, learning_rate = 1e-3, warmup_steps = 1, pace = { steps = 1 } }
        diffusion = { pool = 8, batch = 4, levels_per_caption = 2, loss = "velocity", noisy_half_share = 0.5, caption_dropout = 0.25, learning_rate = 1e-3, warmup_steps = 1, ema_decay = 0.5, pace = { steps = 1 } }
    "#;

    /// Never stops.
    struct Goes;

    impl Observer for Goes {
        fn on_step(&mut self, _report: &StepReport<'_>) {}

        fn stopped(&self) -> bool {
            false
        }
    }

    /// A folder below `top` that holds the content of another.
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            if from.is_dir() {
                copy(&from, &to);
            } else {
                fs::copy(from, to).unwrap();
            }
        }
    }

    /// Stopped at any file operation, by a kill or by an error, while a further trained autoencoder takes the place of an
    /// earlier one: one of the two is there as a whole, the record never claims what is not so, and the next call ends
    /// with the files of a call that was never stopped.
    #[test]
    fn the_autoencoder_survives_every_kill_and_failure() {
        let top = tempfile::tempdir().unwrap();
        let pictures = top.path().join("pictures");
        let mut list = String::new();
        for i in 0..4_u8 {
            save(&RgbImage::from_pixel(8, 8, Rgb([60 * i, 200, 30])), &pictures.join(format!("{i}.png")))
                .unwrap();
            list += &format!("{{\"file_name\": \"{i}.png\", \"text\": \"picture {i}\"}}\n");
        }
        fs::write(pictures.join("metadata.jsonl"), list).unwrap();
        let dataset: Arc<dyn Dataset> = Arc::new(ImageFolder::open(&pictures, 8).unwrap());
        let device = Device::flex();
        let in_folder = |output: &Path, steps: usize, work: &mut dyn FnMut(&LatentTeacher<'_>)| {
            let mut config: TeacherConfig = toml::from_str(CONFIG).unwrap();
            (config.output, config.autoencoder.pace.steps) = (output.to_owned(), steps);
            let model = ModelFolder::new(output.join("model"));
            work(&LatentTeacher { config: &config, dataset: &dataset, model: &model, device: &device });
        };
        // The files of a folder; none where a kill left no folder.
        let vae = |folder: &Path| {
            let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap());
            let mut files: Vec<_> =
                entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect();
            files.sort();
            files
        };
        let record = |output: &Path| fs::read(output.join("vae.json")).unwrap();

        // One step, then a second one in the checkpoint: the model's folder still has the first.
        let start = top.path().join("start");
        let place = |output: &Path| ModelFolder::new(output.join("model")).part(Part::Autoencoder);
        in_folder(&start, 1, &mut |latents| {
            assert_eq!(latents.autoencoder(&mut Goes).unwrap(), Outcome::Finished)
        });
        let (first, first_record) = (vae(&place(&start)), record(&start));
        let whole = top.path().join("whole");
        copy(&start, &whole);
        in_folder(&whole, 2, &mut |latents| {
            assert_eq!(latents.autoencoder(&mut Goes).unwrap(), Outcome::Finished)
        });
        let (second, second_record) = (vae(&place(&whole)), record(&whole));
        assert!(first != second && first_record != second_record);
        fs::remove_dir_all(start.join("checkpoints")).unwrap();
        copy(&whole.join("checkpoints"), &start.join("checkpoints"));

        for fault in [Fault::Killed as fn(usize) -> Fault, Fault::Fails] {
            let mut at = 0;
            loop {
                let what = fault(at);
                let output = top.path().join(format!("{what:?}"));
                copy(&start, &output);
                let mut operations = 0;
                in_folder(&output, 2, &mut |latents| {
                    let (result, counted) = with_fault(what, || latents.autoencoder(&mut Goes));
                    operations = counted;
                    let left = vae(&WholeFolder::new(place(&output)).newest().unwrap());
                    assert!(left == first || left == second, "{what:?}: neither autoencoder is there");
                    assert!(result.is_err() || left == second, "{what:?}");
                    let recorded = record(&output);
                    assert!(recorded == first_record || recorded == second_record, "{what:?}: no record");
                    // The record stands only where the folder itself is one of the two, and the same one.
                    let stands = latents.finished_autoencoder().unwrap();
                    let right = if recorded == first_record { &first } else { &second };
                    assert_eq!(stands, vae(&place(&output)) == *right, "{what:?}");
                });
                in_folder(&output, 2, &mut |latents| {
                    assert_eq!(latents.autoencoder(&mut Goes).unwrap(), Outcome::Finished);
                    assert!(latents.finished_autoencoder().unwrap(), "{what:?}");
                });
                assert!(vae(&place(&output)) == second && record(&output) == second_record, "{what:?}");
                let entries = fs::read_dir(output.join("model")).unwrap();
                assert_eq!(entries.count(), 1, "{what:?}: something is left beside the autoencoder");
                if operations <= at {
                    break;
                }
                at += 1;
            }
            assert!(at > 12, "{at} file operations");
        }
    }
}
