mod layers;
mod measure;

use std::path::PathBuf;

use anyhow::ensure;
use burn::tensor::FloatDType;
use clap::{Args, ValueEnum};
use dmd_model::generator_recipe;
use serde_json::json;

use self::measure::{Bench, Measured, Peak, SIDE};
use super::{DtypeArgs, JsonArgs, ModelArgs, PartsArgs, progress};
use crate::console::{note, say};

/// Time a model's parts on this machine: median, tenth and ninetieth percentile, share of the machine's peak, memory
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    dtype: DtypeArgs,
    #[command(flatten)]
    options: PartsArgs,
    /// Parts to time [default: text, unet, decode; picture if the model has a generator; the two of --taesd if it is given]
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Timed runs of each part, after one untimed run
    #[arg(long, default_value_t = 10)]
    runs: usize,
    /// Samples per batch of the part distillation
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Also print where the time goes: every kind of layer, and the five slowest shapes (on flex and ndarray, which compute at
    /// once)
    #[arg(long)]
    layers: bool,
    /// Folder of a TAESD; it adds the parts taesd and picture-taesd
    #[arg(long)]
    taesd: Option<PathBuf>,
    #[command(flatten)]
    print: JsonArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The text encoder on one prompt
    Text,
    /// One call of the generator's UNet without guidance, or of the teacher's if the model has no generator
    Unet,
    /// One guided call of the UNet
    Guided,
    /// Latents to a picture
    Decode,
    /// Latents to a picture by TAESD
    Taesd,
    /// A whole one-step picture
    Picture,
    /// A whole one-step picture, decoded by TAESD
    PictureTaesd,
    /// The teacher's whole picture in 50 guided steps
    Teacher,
    /// A generator's and a fake score's turn with a guided teacher, AdamW included
    Distillation,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Unet => "unet",
            Self::Guided => "guided",
            Self::Decode => "decode",
            Self::Taesd => "taesd",
            Self::Picture => "picture",
            Self::PictureTaesd => "picture-taesd",
            Self::Teacher => "teacher",
            Self::Distillation => "distillation",
        }
    }
}

pub(crate) fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    ensure!(args.runs > 0, "--runs must be at least 1");
    ensure!(args.batch > 0, "--batch 0 has no samples");
    let options = args.options.options(&args.model, args.dtype)?;
    let tiny = |part: &Part| matches!(part, Part::Taesd | Part::PictureTaesd);
    let mut parts = args.parts.clone();
    if parts.is_empty() {
        parts = vec![Part::Text, Part::Unet, Part::Decode, Part::Picture];
        parts.extend(args.taesd.iter().flat_map(|_| [Part::Taesd, Part::PictureTaesd]));
        if generator_recipe(&options)?.is_none() {
            parts.retain(|part| !matches!(part, Part::Picture | Part::PictureTaesd));
            note!(
                "this model has no distilled generator, so no picture is timed; name one by --generator or --recipe"
            );
        }
    }
    ensure!(args.taesd.is_some() || !parts.iter().any(tiny), "give --taesd FOLDER to time its parts");
    ensure!(
        !parts.contains(&Part::Distillation) || args.dtype.float() == FloatDType::F32,
        "distillation trains in f32; leave --dtype out"
    );
    progress::at("timing products of matrices");
    let found = Peak::measure(&options.device, options.dtype)?;
    let peak = found.highest();
    let at_once = matches!(args.model.device_name().split(':').next(), Some("flex" | "ndarray"));
    ensure!(
        at_once || !args.layers,
        "--layers times calls, which {} puts into a queue; use flex",
        args.model.device_name()
    );
    let (taesd, layers) = (args.taesd.as_deref(), args.layers);
    let bench = Bench { options: &options, taesd, batch: args.batch, runs: args.runs, layers };
    let mut tables = Vec::new();
    let mut said = Vec::new();
    if !args.print.json {
        say!("| part | median ms | 10 % | 90 % | GFLOP/s | of peak |\n| --- | --- | --- | --- | --- | --- |");
    }
    for part in parts {
        progress::at(format!("timing {}", part.name()));
        let Measured { mut times, flops, layers, notes } = bench.measure(part)?;
        // The model is opened for each part.
        for text in notes {
            if !said.contains(&text) {
                note!("{text}");
                said.push(text);
            }
        }
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
        let (median, low, high) = (at(0.5), at(0.1), at(0.9));
        // Gradients and what other threads run are not recorded.
        let speed = (part != Part::Distillation).then_some(flops / median / 1e6);
        let share = speed.map(|speed| speed / peak);
        if args.print.json {
            let line = json!({
                "part": part.name(), "runs": args.runs, "batch": args.batch,
                "device": args.model.device_name(), "dtype": args.dtype.name(),
                "median_ms": median, "p10_ms": low, "p90_ms": high,
                "gflops": speed, "peak_gflops": peak, "product_gflops": found.product, "peak_memory_bytes": dmd_kernels::memory::peak(),
                "layers": layers.as_ref().map(layers::json),
            });
            say!("{line}");
        } else {
            let or_none = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
            let speed = or_none(speed.map(|speed| format!("{speed:.0}")));
            let share = or_none(share.map(|share| format!("{:.0} %", 100.0 * share)));
            say!("| {} | {median:.2} | {low:.2} | {high:.2} | {speed} | {share} |", part.name());
            tables.extend(layers.map(|found| (part, found)));
        }
    }
    for (part, found) in &tables {
        layers::print(part.name(), found, peak);
    }
    if !args.print.json {
        let product = found.product;
        match found.processor {
            Some(_) => say!(
                "\npeak: {peak:.0} GFLOP/s, multiplications and additions on registers alone; a product of two {SIDE}×{SIDE} \
                 matrices reaches {product:.0}"
            ),
            None => {
                say!("\npeak: {peak:.0} GFLOP/s, the best of several products of two {SIDE}×{SIDE} matrices")
            }
        }
        say!("work is counted as plain multiplications and additions: faster algorithms may exceed the peak");
        if let Some(bytes) = dmd_kernels::memory::peak() {
            say!("peak memory of this process: {:.2} GiB", bytes as f64 / f64::from(1 << 30));
        }
    }
    Ok(())
}
