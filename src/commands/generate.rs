use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::Args;
use dmd_infer::{Method, Request, encode_png};
use dmd_weights::write_atomic;

use super::ModelArgs;

/// Draw pictures of prompts
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// What to draw; several prompts draw several pictures
    #[arg(required = true)]
    prompts: Vec<String>,
    /// Seed of the first picture; the next ones count up
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Pictures per prompt
    #[arg(long, default_value_t = 1)]
    count: usize,
    /// 1 draws with the distilled generator, more with the teacher
    #[arg(long, default_value_t = 1)]
    steps: usize,
    /// Classifier-free guidance of the teacher [default: 2]
    #[arg(long)]
    guidance: Option<f64>,
    #[command(flatten)]
    model: ModelArgs,
    /// PNG to write; several pictures are numbered
    #[arg(long, default_value = "picture.png")]
    out: PathBuf,
}

/// Guidance of the teacher where none is asked for: that of the embedded model's distillation.
pub(crate) const DEFAULT_GUIDANCE: f64 = 2.0;

/// The method of a number of steps.
pub(crate) fn method(steps: usize, guidance: Option<f64>) -> Result<Method, dmd_infer::Error> {
    match (steps, guidance) {
        (1, None) => Ok(Method::OneStep),
        (1, Some(1.0)) => Ok(Method::OneStep),
        (1, Some(_)) => Err(dmd_infer::Error::GuidedOneStep),
        (steps, guidance) => {
            Ok(Method::Teacher { steps, guidance_scale: guidance.unwrap_or(DEFAULT_GUIDANCE) })
        }
    }
}

pub(crate) fn generate(args: &GenerateArgs) -> anyhow::Result<()> {
    ensure!(args.count > 0, "--count 0 draws nothing; ask for at least 1");
    let prompts = args.prompts.iter().flat_map(|prompt| vec![prompt.clone(); args.count]);
    let request = Request::new(prompts);
    let count = request.prompts.len() as u64;
    let request = request
        .with_seeds((0..count).map(|i| args.seed.wrapping_add(i)))
        .with_method(method(args.steps, args.guidance)?);
    let drawn = args.model.open()?.generate(&request)?;
    for (i, picture) in drawn.pictures.iter().enumerate() {
        let path = numbered(&args.out, i, drawn.pictures.len());
        write_atomic(&path, &encode_png(picture)?)?;
        println!("{}  seed {}  {:?}", path.display(), drawn.seeds[i], request.prompts[i]);
    }
    let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
    let t = drawn.timings;
    println!(
        "{:.1} ms: text {:.1}, denoising {:.1}, decoding {:.1}",
        ms(t.total()),
        ms(t.text),
        ms(t.denoising),
        ms(t.decoding)
    );
    Ok(())
}

/// `picture.png` for one picture, `picture-1.png`, `picture-2.png`, .. for several.
fn numbered(path: &Path, index: usize, count: usize) -> PathBuf {
    if count == 1 {
        return path.to_owned();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map_or("png".into(), |e| e.to_string_lossy());
    path.with_file_name(format!("{stem}-{}.{extension}", index + 1))
}
